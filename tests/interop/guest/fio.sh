# fio with verification: mixes of sizes, depths and trims, with digests on and off, on 4096- and 512-byte blocks.
# Wants two exports: 0 of 4096-byte blocks, 1 of 512-byte blocks.
. /share/guest/lib.sh
plan 26

# verified SIZE OPTIONS...: one fio job over $B that checks all it wrote.
verified() {
    local size=$1
    shift
    timeout 100 fio --name=verify --filename="$B" --ioengine=libaio --direct=1 --size="$size" --verify=crc32c \
        --do_verify=1 --verify_fatal=1 --verify_dump=0 --randrepeat=0 "$@"
}
arrives() { B=$(device "$1"); }

for index in 0 1; do
    eval "block=\$BLOCK_$index"
    for digests in off on; do
        name=$block-digests-$digests
        options=--nr-io-queues=2
        [ $digests = off ] || options="$options $DIGESTS"
        check "$name-connect" connect $index $options
        check "$name-device" arrives $index
        check "$name-mixed" verified 6M --rw=randrw --iodepth=16 --bssplit=$block/30:4k/30:16k/20:64k/10:256k/10 --blockalign=$block
        check "$name-deep" verified 1M --rw=randwrite --iodepth=128 --bs=$block
        check "$name-large" verified 16M --rw=write --iodepth=4 --bs=1M
        check "$name-trim" verified 4M --rw=randtrimwrite --iodepth=8 --bs=8k
        disconnect $index >/dev/null
    done
done
index=0
check two-jobs-connect connect 0 --nr-io-queues=2
arrives 0
check two-jobs verified 4M --rw=randrw --iodepth=32 --bs=4k --numjobs=2 --offset_increment=8M --group_reporting
disconnect 0 >/dev/null
