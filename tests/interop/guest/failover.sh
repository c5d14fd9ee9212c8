# The target killed without warning and started again on the same file, twice, under writes that fio verifies: the host
# reconnects, fio completes, and nothing is lost. Wants one export kept in a file.
. /share/guest/lib.sh
plan 14

check connect connect 0 --nr-io-queues=2 --reconnect-delay=1 --ctrl-loss-tmo=120 --keep-alive-tmo=5
arrives() { B=$(device 0); }
check device arrives

# Slow enough to be under way at both kills, and to be done soon after.
# fio's processes talk over pipes, and one was once ended by SIGPIPE: without the signal, it goes on.
(
    trap '' PIPE
    exec fio --name=failover --filename="$B" --ioengine=libaio --direct=1 --rw=randwrite --bs=16k --size=16M --iodepth=16 \
        --rate_iops=64 --verify=crc32c --do_verify=1 --verify_fatal=1 --verify_dump=0 --randrepeat=0 --randseed=7 \
        >/tmp/fio.log 2>&1
) &
job=$!
running() { kill -0 $job; }
for n in 1 2; do
    sleep 3
    check kill-$n target kill 0
    check loss-is-seen-$n within 15 not ctrl 0
    check fio-waits-$n running
    check restart-$n target restart 0
    check reconnects-$n within 20 ctrl 0
done
finished() { wait $job; rc=$?; cat /tmp/fio.log; return $rc; }
check fio-completes finished
disconnect 0 >/dev/null
# Every block again, over a new connection.
again() {
    connect 0 && arrives &&
        timeout 100 fio --name=failover --filename="$B" --ioengine=libaio --direct=1 --rw=randwrite --bs=16k \
            --size=16M --iodepth=16 --verify=crc32c --verify_only=1 --verify_fatal=1 --randrepeat=0 --randseed=7
}
check nothing-lost again
