# RDMA devices that come and go: host and target in one guest on two soft-RoCE devices. Nothing of RDMA is there when the target starts. The host's device stays; the target's is removed and comes back while
# the host has I/O under way, and nothing of that fails.
# Wants one export of 4096-byte blocks, on RDMA at PORT_0 and on TCP at TCP_PORT.

# Of the target's listeners, the one on TCP comes up at once.
DEVICE=later
TARGET_LISTENERS_0=1
if [ "$TARGET" = nvmet ]; then
    # The kernel's target does not wait for devices.
    echo "plan 1" >>/share/results
    echo "skip devices: of caisson alone" >>/share/results
    exit 0
fi
. /share/guest/two_ends.sh
cables || exit 1
. /share/guest/lib.sh
plan 29

waits() { says "once it can.*$1" caisson listener list; }
up() { caisson listener list >/tmp/listeners && cat /tmp/listeners && ! grep -q 'once it can' /tmp/listeners; }
over_tcp() { says "subnqn: *$NQN_0" nvme discover -t tcp -a "$ADDR" -s "$TCP_PORT"; }
over_rdma() { says "subnqn: *$NQN_0" nvme discover -t rdma -a "$ADDR" -s "$PORT_0"; }
arrives() { B=$(device 0); }
set_aside() {
    echo "$1" >/proc/sys/vm/nr_hugepages && grep -E "HugePages_Total: *$1$" /proc/meminfo
}

# At the start: no module, no device, no address; each is waited for.
check waits-for-rdma waits 'modprobe|no RDMA|errno'
check serves-over-tcp over_tcp
ip address del "$ADDR/24" dev t0
check devices-appear soft_rdma
check waits-for-the-address within 10 waits 'no address'
ip address add "$ADDR/24" dev t0
check routes-are-back routes
check comes-up within 20 up
check discover within 10 over_rdma
check connect connect 0 --nr-io-queues=1 --queue-size=32 --reconnect-delay=1 --ctrl-loss-tmo=300 --keep-alive-tmo=5
check device arrives

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
