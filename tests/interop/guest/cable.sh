# A cable that is pulled under I/O, and a port that is switched off: host and target in one guest on two soft-RoCE devices.
# Wants one export of 4096-byte blocks, on RDMA at PORT_0.

. /share/guest/two_ends.sh
cables || exit 1
. /share/guest/lib.sh
if [ "$TARGET" = nvmet ]; then plan 14; else plan 24; fi

arrives() { B=$(device 0); }
# The queue pair that all messages of the connection manager go by: a message that cannot be sent ends it, and nothing brings it back.
qp1_lives() { says '^link rxet/1 .*type GSI state RTS' rdma resource show qp; }
no_connections() { ! rdma resource show qp | grep '^link rxet/1 .*type RC'; }
check connect connect 0 --nr-io-queues=1 --queue-size=32 --reconnect-delay=1 --ctrl-loss-tmo=300 --keep-alive-tmo=5
check device arrives

# The cable pulled at the target's end, shorter than anybody's patience and longer.
load
check io-flows flows
ip link set t1 down
[ "$TARGET" = nvmet ] || check port-down-is-said within 10 logged 'a port of an RDMA device is down'
check io-stands stands
sleep 1
check qp1-lives qp1_lives
ip link set t1 up
[ "$TARGET" = nvmet ] || check port-up-is-said within 10 logged 'a port of an RDMA device is up'
check io-goes-on flows
check nothing-failed load_ends
load
check io-flows-again flows
ip link set t1 down
check loss-is-seen within 40 not ctrl 0
sleep 3
check qp1-lives-on qp1_lives
ip link set t1 up
check reconnects within 90 ctrl 0
check io-goes-on-after-the-loss flows
check nothing-failed-by-the-loss load_ends

# The target's port switched off until its connections are over: all that is sent fails meanwhile. (The kernel's target sends all the same.)
if [ "$TARGET" != nvmet ]; then
    load
    check io-flows-a-third-time flows
    ip link set t0 down
    check loss-is-seen-again within 40 not ctrl 0
    check connections-end within 40 no_connections
    check qp1-lives-to-the-end qp1_lives
    ip link set t0 up
    routes
    check reconnects-again within 90 ctrl 0
    check io-goes-on-after-that flows
    check nothing-failed-by-that load_ends
fi

check disconnect disconnect 0
dmesg >/share/dmesg
[ "$TARGET" = nvmet ] || check ends-cleanly finish
