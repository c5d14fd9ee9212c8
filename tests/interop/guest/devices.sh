# RDMA devices that come and go, and a cable that is pulled: host and target in one guest on two soft-RoCE devices, with a bridge
# between them. Nothing of RDMA is there when the target starts. The host's device stays; the target's is removed and comes back while
# the host has I/O under way, and nothing of that fails.
# Wants one export of 4096-byte blocks, on RDMA at PORT_0 and on TCP at TCP_PORT.

# Of the target's listeners, the one on TCP comes up at once.
DEVICE=later
TARGET_LISTENERS_0=1
HOST=10.0.2.16

# h0 is the host's end and t0 the target's; h1 and t1 are the ends of their cables at the bridge. Of one kernel's two addresses, one is
# reached from the other by the cables, not by a short cut.
cables() {
    local n
    modprobe -a veth bridge && ip address del "$ADDR/24" dev eth0 && ip link add br0 type bridge forward_delay 0 || return 1
    for n in h t; do
        ip link add ${n}0 type veth peer name ${n}1 && ip link set ${n}1 master br0 && ip link set ${n}1 up || return 1
        echo 1 >/proc/sys/net/ipv4/conf/${n}0/accept_local
        echo 0 >/proc/sys/net/ipv4/conf/${n}0/rp_filter
        ip link set ${n}0 up
    done
    echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter
    # Who is asked for an address answers for its own only: not the bridge for both.
    echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore
    ip link set br0 up
    ip address add $HOST/24 dev h0 && ip address add "$ADDR/24" dev t0 || return 1
    ip rule add pref 10 to "$ADDR" iif lo lookup 10 && ip rule add pref 11 to "$ADDR" oif h0 lookup 10 || return 1
    ip rule add pref 12 to $HOST iif lo lookup 11 && ip rule add pref 13 to $HOST oif t0 lookup 11 || return 1
    ip rule add pref 100 lookup local && ip rule del pref 0 || return 1
    routes
}
routes() { ip route replace "$ADDR" dev h0 src $HOST table 10 && ip route replace $HOST dev t0 src "$ADDR" table 11; }

if [ "$TARGET" = nvmet ]; then
    # The kernel's target does not wait for devices.
    echo "plan 1" >>/share/results
    echo "skip devices: of caisson alone" >>/share/results
    exit 0
fi
cables || exit 1
. /share/guest/lib.sh
plan 40

waits() { says "once it can.*$1" caisson listener list; }
up() { caisson listener list >/tmp/listeners && cat /tmp/listeners && ! grep -q 'once it can' /tmp/listeners; }
over_tcp() { says "subnqn: *$NQN_0" nvme discover -t tcp -a "$ADDR" -s "$TCP_PORT"; }
over_rdma() { says "subnqn: *$NQN_0" nvme discover -t rdma -a "$ADDR" -s "$PORT_0"; }
arrives() { B=$(device 0); }
modules_and_devices() {
    modprobe -a rdma_rxe ib_uverbs rdma_ucm nvme_rdma && rdma link add rxeh type rxe netdev h0 && rdma link add rxet type rxe netdev t0
}
logged() { grep -q "$1" /tmp/caisson.0.log; }

# Verified I/O beside what is done meanwhile; ends when /tmp/enough is there.
load() {
    rm -f /tmp/enough
    (
        rc=0
        until [ -e /tmp/enough ] || [ $rc != 0 ]; do
            fio --name=load --filename="$B" --ioengine=libaio --direct=1 --size=2M --rw=randrw --iodepth=8 --bssplit=4k/70:32k/30 \
                --blockalign=4k --verify=crc32c --do_verify=1 --verify_fatal=1 --verify_dump=0 --randrepeat=0 >/tmp/load 2>&1 || rc=$?
        done
        echo $rc >/tmp/load.rc
    ) &
    LOAD=$!
}
# What was under way comes to its end, and without an error.
load_ends() {
    local tries=600
    touch /tmp/enough
    while kill -0 $LOAD 2>/dev/null; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || { echo "it hangs"; return 1; }
        sleep 0.2
    done
    cat /tmp/load
    [ "$(cat /tmp/load.rc)" = 0 ]
}
done_so_far() {
    # shellcheck disable=SC2046 # the fields of the file
    set -- $(cat "/sys/block/${B#/dev/}/stat")
    echo $(($1 + $5))
}
flows() {
    local before
    before=$(done_so_far)
    within 60 more_than "$before"
}
more_than() { [ "$(done_so_far)" -gt "$1" ]; }
# Nothing is completed for three seconds.
stands() {
    local before
    sleep 1
    before=$(done_so_far)
    sleep 3
    is "$(done_so_far)" "$before"
}

set_aside() {
    echo "$1" >/proc/sys/vm/nr_hugepages && grep -E "HugePages_Total: *$1$" /proc/meminfo
}

# At the start: no module, no device, no address; each is waited for.
check waits-for-rdma waits 'modprobe|no RDMA|errno'
check serves-over-tcp over_tcp
ip address del "$ADDR/24" dev t0
check devices-appear modules_and_devices
check waits-for-the-address within 10 waits 'no address'
ip address add "$ADDR/24" dev t0
check routes-are-back routes
check comes-up within 20 up
check discover within 10 over_rdma
check connect connect 0 --nr-io-queues=1 --queue-size=32 --reconnect-delay=1 --ctrl-loss-tmo=300 --keep-alive-tmo=15
check device arrives

# The cable pulled at the target's end, shorter than anybody's patience and longer.
load
check io-flows flows
ip link set t1 down
check port-down-is-said within 10 logged 'a port of an RDMA device is down'
check io-stands stands
sleep 1
ip link set t1 up
check port-up-is-said within 10 logged 'a port of an RDMA device is up'
check io-goes-on flows
check nothing-failed load_ends
load
check io-flows-again flows
ip link set t1 down
check loss-is-seen within 60 not ctrl 0
sleep 3
ip link set t1 up
check reconnects within 90 ctrl 0
check io-goes-on-after-the-loss flows
check nothing-failed-by-the-loss load_ends

# The target's device removed under I/O.
remove() { timeout 30 rdma link delete rxet; }
add() { rdma link add rxet type rxe netdev t0; }
gone() { ! rdma link | grep -q rxet; }
load
check io-flows-before-removal flows
check removed-under-io remove
check removal-took-it gone
check connections-end-with-their-cause logged 'RDMA connection lost: its device was removed'
check listeners-wait within 5 waits 'its device is gone|no RDMA device has the address'
check tcp-serves-on over_tcp
# It comes back to buffers of huge pages, which the system has set aside meanwhile.
check buffers-of-usual-pages logged 'huge=0 transparent=[1-9]'
check huge-pages-set-aside set_aside 80
check added-again add
check listens-again within 20 up
check host-is-back within 90 ctrl 0
check buffers-of-huge-pages logged 'huge=[1-9]'
check io-goes-on-after-removal flows
check nothing-failed-by-removal load_ends
check disconnect disconnect 0

# And with nobody connected; then with nobody since.
check removed-idle remove
check added-after-that add
check listens-after-that within 20 up
check removed-unused remove
check ends-cleanly finish
