# Every nvme-cli command that an administrator uses on a connection, and the I/O commands through pass-through.
# Wants one export of 4096-byte blocks.
. /share/guest/lib.sh
plan 89

check discover-on-io-port says "subnqn: *$NQN_0$" nvme discover -t $TRANSPORT -a "$ADDR" -s "$PORT_0"
check discover-says-port grep -q "trsvcid: *$PORT_0$" "$prev"
check discover-on-discovery-port says "subnqn: *$NQN_0$" nvme discover -t $TRANSPORT -a "$ADDR" -s "$DISCOVERY_PORT"
check connect-to-unknown-subsystem-refused fails 'failed|could not|invalid|denied|error' \
    nvme connect -t $TRANSPORT -a "$ADDR" -s "$PORT_0" -n nqn.2026-01.test:nobody
check connect connect 0 --nr-io-queues=2 --queue-size=64 --keep-alive-tmo=10
B=$(device 0) || { echo "no block device"; exit 1; }
C=/dev/$(ctrl 0)
check size is "$(bytes "${B#/dev/}")" "$SIZE_0"
check block-size is "$(cat "/sys/block/${B#/dev/}/queue/logical_block_size")" "$BLOCK_0"
check two-io-queues is "$(cat "/sys/class/nvme/${C#/dev/}/queue_count")" 3
last=$((SIZE_0 / BLOCK_0))

check list says "${B#/dev/}" nvme list
check list-subsys says "$TRANSPORT.*(traddr=$ADDR|$ADDR).*live" nvme list-subsys
check list-subsys-nqn grep -q "$NQN_0" "$prev"
check id-ctrl says "subnqn *: *$NQN_0" nvme id-ctrl "$C"
cp "$out" /tmp/id-ctrl
check id-ctrl-entry-sizes is "$(field sqes /tmp/id-ctrl) $(field cqes /tmp/id-ctrl)" "0x66 0x44"
check id-ctrl-in-capsule-data test "$(field ioccsz /tmp/id-ctrl)" -ge 4
check id-ns nvme id-ns "$B"
check id-ns-size is "$(($(field nsze "$out")))" "$last"
check ns-descs says '(uuid|nguid) *:.*[1-9a-f]' nvme ns-descs "$B"
check list-ns says '0\]:0x1$' nvme list-ns "$C"
beyond_nvmet list-ns-allocated says '0\]:0x1$' nvme list-ns "$C" --all
beyond_nvmet nvm-id-ctrl nvme nvm-id-ctrl "$C"
beyond_nvmet nvm-id-ns nvme nvm-id-ns "$B"
beyond_nvmet cmdset-ind-id-ns says 'nstat *: *0x1' nvme cmdset-ind-id-ns "$B"
beyond_nvmet id-iocs nvme id-iocs "$C"
check show-regs says 'csts *: *(0x)?0*1$' nvme show-regs "$C"
check smart-log says 'critical_warning.*: *0' nvme smart-log "$C"
check error-log says 'error_count' nvme error-log "$C"
check fw-log says 'afi' nvme fw-log "$C"
check effects-log says 'ACS|Admin' nvme effects-log "$C"
check changed-ns-list-log nvme changed-ns-list-log "$C"
beyond_nvmet supported-log-pages says 'LID 0x2 ' nvme supported-log-pages "$C"

beyond_nvmet fid-support-effects-log nvme fid-support-effects-log "$C"

beyond_nvmet get-feature-0x01 nvme get-feature "$C" -f 0x01
beyond_nvmet get-feature-0x02 nvme get-feature "$C" -f 0x02
beyond_nvmet get-feature-0x04 nvme get-feature "$C" -f 0x04
check get-feature-0x06 nvme get-feature "$C" -f 0x06
check get-feature-0x07 nvme get-feature "$C" -f 0x07
check get-feature-0x0b nvme get-feature "$C" -f 0x0b
beyond_nvmet get-feature-0x0e nvme get-feature "$C" -f 0x0e -l 8
check get-feature-0x0f nvme get-feature "$C" -f 0x0f
beyond_nvmet get-feature-0x16 nvme get-feature "$C" -f 0x16 -l 512
check get-feature-0x81 says '^0000: 5f 0c 1d 7e' nvme get-feature "$C" -f 0x81 -l 16 -c 1
check get-feature-0x84 nvme get-feature "$C" -n 1 -f 0x84
# set_and_get FEATURE VALUE: the value must read back as it was set.
set_and_get() {
    nvme set-feature "$C" -f "$1" --value="$2" && says "Current value: *(0x)?0*${2#0x}$" nvme get-feature "$C" -f "$1"
}
# The timestamp counts milliseconds; nvme-cli takes it from --value. Read back a little later, its low bytes have moved.
set_timestamp() {
    nvme set-feature "$C" -f 0x0e --value=0x165cafe0000 && says '^0000: .. .. fe ca 65 01' nvme get-feature "$C" -f 0x0e -l 8
}
beyond_nvmet set-feature-temperature-threshold set_and_get 0x04 0x150
beyond_nvmet set-feature-arbitration set_and_get 0x01 0x2
beyond_nvmet set-feature-timestamp set_timestamp
check set-feature-async-events set_and_get 0x0b 0x100
check set-feature-keep-alive set_and_get 0x0f 0x3a98
check set-unknown-feature-refused fails 'invalid field' nvme set-feature "$C" -f 0x70 --value=1
check unknown-admin-command-refused fails 'invalid (command )?opcode' nvme admin-passthru "$C" --opcode=0x77
check unknown-log-page-refused fails 'invalid (log|field)' nvme get-log "$C" --log-id=0x6f --log-len=16
beyond_nvmet unknown-namespace-refused fails 'invalid namespace' nvme id-ns "$C" -n 0xfffffffe

blocks=8
dd if=/dev/urandom of=/tmp/pattern bs=4096 count=$blocks 2>/dev/null
dd if=/dev/zero of=/tmp/zeros bs=4096 count=$blocks 2>/dev/null
size=$((blocks * 4096))
nlb=$((size / BLOCK_0 - 1))
put() { nvme write "$B" -s "$1" -c $nlb -z $size -d "$2"; }
holds() { rm -f /tmp/back; nvme read "$B" -s "$1" -c $nlb -z $size -d /tmp/back && cmp /tmp/back "$2"; }
check flush nvme flush "$B"
check write put 0 /tmp/pattern
check read-back holds 0 /tmp/pattern
check write-last-blocks put $((last - nlb - 1)) /tmp/pattern
beyond_nvmet read-past-the-end-refused fails 'LBA out of range' \
    nvme read "$B" -s $((last - nlb)) -c $nlb -z $size -d /tmp/back
beyond_nvmet smart-log-counts says 'host_write_commands.*: *[1-9]' nvme smart-log "$C"
beyond_nvmet compare-same nvme compare "$B" -s 0 -c $nlb -z $size -d /tmp/pattern
beyond_nvmet compare-different fails 'compare failure' nvme compare "$B" -s 0 -c $nlb -z $size -d /tmp/zeros
beyond_nvmet verify nvme verify "$B" -s 0 -c $nlb
beyond_nvmet copy nvme copy "$B" --sdlba=1000 --slbs=0 --blocks=$nlb
beyond_nvmet copy-holds holds 1000 /tmp/pattern
beyond_nvmet write-zeroes nvme write-zeroes "$B" -s 0 -c $nlb
beyond_nvmet write-zeroes-holds holds 0 /tmp/zeros
check refill put 2000 /tmp/pattern
check dsm-deallocate nvme dsm "$B" --ad --slbs=2000 --blocks=$((nlb + 1))
check dsm-deallocate-reads holds 2000 /tmp/zeros
beyond_nvmet write-uncor nvme write-uncor "$B" -s 0 -c $nlb
beyond_nvmet write-uncor-read-fails fails 'unrecovered read' nvme read "$B" -s 0 -c $nlb -z $size -d /tmp/back
check error-log-holds-it says 'error_count.*: *[1-9]' nvme error-log "$C" --log-entries=1
check write-again put 0 /tmp/pattern
check write-again-holds holds 0 /tmp/pattern
check write-protect nvme set-feature "$B" -n 1 -f 0x84 --value=1
check write-protect-refuses fails 'write protect' put 0 /tmp/zeros
check write-protect-keeps holds 0 /tmp/pattern
check write-protect-ends nvme set-feature "$B" -n 1 -f 0x84 --value=0
check written-after-protection put 0 /tmp/pattern

big() { dd if=/dev/urandom of=/tmp/big bs=1M count=4 && dd if=/tmp/big of="$B" bs=1M oflag=direct seek=1 && dd if="$B" of=/tmp/big2 bs=1M iflag=direct skip=1 count=4 && cmp /tmp/big /tmp/big2; }
check transfers-of-1-mib big
check reset nvme reset "$C"
check live-after-reset within 20 ctrl 0
check holds-after-reset holds 0 /tmp/pattern
check disconnect disconnect 0
check gone-after-disconnect within 10 not ns 0 1

check connect-with-digests connect 0 $DIGESTS --nr-io-queues=1
B=$(device 0)
check data-with-digests big
check disconnect-with-digests says 'disconnected 1' disconnect 0

check connect-with-all-kinds-of-queues connect 0 --nr-io-queues=2 --nr-write-queues=2 --nr-poll-queues=2 --queue-size=1024
B=$(device 0)
check seven-queues is "$(cat "/sys/class/nvme/$(ctrl 0)/queue_count")" 7
check data-over-all-queues big
disconnect 0 >/dev/null
