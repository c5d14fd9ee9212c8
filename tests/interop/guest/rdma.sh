# NVMe/RDMA over rdma_rxe, host and target in one guest: discovery, connect, file systems, verified I/O of mixed sizes and
# depths, both transports at once on one namespace, Caisson's own host, IPv6, changes of a running target, the target killed, and
# the link going down.
# Wants one export of 4096-byte blocks, on RDMA at PORT_0 and on TCP at TCP_PORT.
. /share/guest/lib.sh
plan 61

# Processor time in ticks over three seconds without a host: an idle target sleeps.
idle() {
    local pid before after
    pid=$(cat /tmp/caisson.0.pid) || return 1
    before=$(cut -d' ' -f14,15 "/proc/$pid/stat" | tr ' ' + | xargs -I{} sh -c 'echo $(({}))')
    sleep 3
    after=$(cut -d' ' -f14,15 "/proc/$pid/stat" | tr ' ' + | xargs -I{} sh -c 'echo $(({}))')
    echo "$((after - before)) ticks"
    [ $((after - before)) -le 15 ]
}
# The kernel's own target does not end.
[ "$TARGET" = caisson ] || finish() { echo "there is no process"; return 1; }
arrives() { B=$(device 0); }
verified() {
    local size=$1
    shift
    timeout 200 fio --name=verify --filename="$B" --ioengine=libaio --direct=1 --size="$size" --verify=crc32c \
        --do_verify=1 --verify_fatal=1 --verify_dump=0 --randrepeat=0 "$@"
}

check discover says "subnqn: *$NQN_0" nvme discover -t rdma -a "$ADDR" -s "$PORT_0"
cp "$out" /tmp/discovered
check discover-says-rdma grep -q 'trtype: *rdma' /tmp/discovered
check discover-says-how-to-connect grep -q 'rdma_cms: *rdma-cm' /tmp/discovered
check discover-on-discovery-port says "subnqn: *$NQN_0" nvme discover -t rdma -a "$ADDR" -s "$DISCOVERY_PORT"
check connect-to-unknown-subsystem-refused fails 'failed|could not|invalid|denied|error' \
    nvme connect -t rdma -a "$ADDR" -s "$PORT_0" -n nqn.2026-01.test:nobody
check connect connect 0 --nr-io-queues=2 --queue-size=64 --keep-alive-tmo=10
check device arrives
C=/dev/$(ctrl 0)
check transport-is-rdma says rdma cat "/sys/class/nvme/${C#/dev/}/transport"
beyond_nvmet keyed-descriptors says 'sgls *: *0x100005' nvme id-ctrl "$C"
cp "$out" /tmp/id-ctrl
check in-capsule-data test "$(field ioccsz /tmp/id-ctrl)" -gt 4
check smart-log nvme smart-log "$C"
check flush nvme flush "$B"

check mixed verified 6M --rw=randrw --iodepth=16 --bssplit=4k/30:16k/30:64k/30:256k/10 --blockalign=4k
check deep verified 1M --rw=randwrite --iodepth=64 --bs=4k
check large verified 16M --rw=write --iodepth=4 --bs=1M
check trim verified 4M --rw=randtrimwrite --iodepth=8 --bs=8k
check two-jobs verified 4M --rw=randrw --iodepth=32 --bs=4k --numjobs=2 --offset_increment=8M --group_reporting

files() {
    mke2fs -q -F -t ext4 "$B" && mkdir -p /mnt/a && mount "$B" /mnt/a &&
        dd if=/dev/urandom of=/mnt/a/file bs=64k count=64 && cp /mnt/a/file /tmp/file && umount /mnt/a
}
again() { mount "$B" /mnt/a && cmp /mnt/a/file /tmp/file && umount /mnt/a && e2fsck -fn "$B"; }
check ext4 files
check reset nvme reset "$C"
check live-after-reset within 20 ctrl 0
check files-after-reset again

# Both transports on one namespace at once: two paths of one device, which the host uses in turn.
over_tcp() { nvme connect -t tcp -a "$ADDR" -s "$TCP_PORT" -n "$NQN_0" --nr-io-queues=1; }
two_paths() {
    set -- /sys/block/nvme*c*n1
    [ $# = 2 ] && [ -e "$1/stat" ]
}
in_turn() {
    local s
    for s in /sys/class/nvme-subsystem/*/iopolicy; do echo round-robin >"$s" || return 1; done
}
# Requests that each path has had so far.
used() {
    local p
    for p in /sys/block/nvme*c*n1; do
        echo "$p $(cat "$p/stat")"
        # shellcheck disable=SC2046 # the fields of the file
        set -- $(cat "$p/stat")
        [ $(($1 + $5)) -gt 20 ] || return 1
    done
}
end_tcp() {
    local c
    for c in /sys/class/nvme/nvme*; do
        [ "$(cat "$c/transport")" = tcp ] && nvme disconnect -d "${c##*/}"
    done
    within 10 not two_paths
}
check tcp-beside-it over_tcp
check two-paths within 20 two_paths
check paths-in-turn in_turn
check both-at-once verified 6M --rw=randrw --iodepth=16 --bssplit=4k/50:64k/50 --blockalign=4k
check both-were-used used
check tcp-ends end_tcp
check rdma-goes-on verified 1M --rw=randrw --iodepth=8 --bs=4k

# A listener added and taken away while the target runs.
check listener-added target listen 0 "rdma://$ADDR:4499"
check reached-by-it says "subnqn: *$NQN_0" nvme discover -t rdma -a "$ADDR" -s 4499
check listener-removed target unlisten 0 "rdma://$ADDR:4499"
check not-reached-any-more fails 'failed|could not|refused|error' nvme discover -t rdma -a "$ADDR" -s 4499
check add-namespace target add-ns 0 2 33554432
check added-is-seen device 0 2
check remove-namespace target remove-ns 0 2
check removal-is-seen within 15 not ns 0 2

check disconnect disconnect 0

# The target killed and started again under a host that waits for it. (Its volume is in memory, and empty then.)
hold() { dd if="$B" of=/dev/null bs=4k count=1 iflag=direct; }
check reconnect connect 0 --nr-io-queues=1 --reconnect-delay=1 --ctrl-loss-tmo=120 --keep-alive-tmo=5
check device-again arrives
check kill target kill 0
check loss-is-seen within 20 not ctrl 0
check restart target restart 0
check reconnects within 30 ctrl 0
check reads-after-restart hold
check disconnect-again disconnect 0

# Caisson's own host.
own() { timeout 60 /tmp/caisson "$@"; }
[ "$TARGET" = caisson ] || own() { echo "there is no caisson"; return 1; }
AT=rdma://$ADDR:$PORT_0
beyond_nvmet own-discover says "subnqn: *$NQN_0" own discover "$AT"
beyond_nvmet own-identify says "subnqn *$NQN_0" own identify "$AT" --nqn "$NQN_0"
beyond_nvmet own-perf says 'verified: .* all right' own perf "$AT" --nqn "$NQN_0" -p randrw -b 16k -d 16 --bytes 4M --verify --no-poll -q
beyond_nvmet own-refused fails 'nobody listens there' own perf "rdma://$ADDR:4999" --nqn "$NQN_0"

# IPv6.
ip -6 address add fd00::15/64 dev eth0 nodad
over_v6() {
    nvme connect -t rdma -a fd00::15 -s 4498 -n "$NQN_0" --nr-io-queues=1 && arrives && hold &&
        grep -q 'traddr=fd00::15' "/sys/class/nvme/$(ctrl 0)/address"
}
beyond_nvmet listener-on-ipv6 within 5 target listen 0 "rdma://[fd00::15]:4498"
beyond_nvmet discover-over-ipv6 says "traddr: *fd00::15" nvme discover -t rdma -a fd00::15 -s 4498
beyond_nvmet connect-over-ipv6 over_v6
beyond_nvmet disconnect-from-ipv6 disconnect 0

# The link down and up, which the device tells; hosts connect again afterwards. (With a connection open, the guest kernel sends on
# the dead link, which ends soft-RoCE's own queue pair for the connection manager for good: that is the kernel's.)
says_port() { grep -q "a port of an RDMA device is $1" /tmp/caisson.0.log; }
ip link set eth0 down
beyond_nvmet down-is-said within 10 says_port down
ip link set eth0 up
ip route add default via 10.0.2.2 2>/dev/null
beyond_nvmet up-is-said within 10 says_port up
check discover-after-up within 20 says "subnqn: *$NQN_0" nvme discover -t rdma -a "$ADDR" -s "$PORT_0"
check connect-after-up connect 0 --nr-io-queues=1
check disconnect-after-up disconnect 0
check tcp-serves-on says "subnqn: *$NQN_0" nvme discover -t tcp -a "$ADDR" -s "$TCP_PORT"
beyond_nvmet idle-uses-no-processor idle
beyond_nvmet ends-cleanly finish
