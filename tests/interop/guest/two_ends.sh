# Host and target in one guest on two soft-RoCE devices, with a bridge between them, and verified I/O beside what a suite does meanwhile.
# Sourced before lib.sh.

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

# The host's device and the target's.
both_devices() { rdma link add rxeh type rxe netdev h0 && rdma link add rxet type rxe netdev t0; }
# shellcheck disable=SC2034 # for soft_rdma
DEVICES=both_devices

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
