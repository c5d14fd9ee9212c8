# The target inside the guest, for what only a machine with the transport can serve: RDMA over rdma_rxe. Started from
# /share/caisson with the words that the harness made, and the same verbs that the harness answers elsewhere.
# Sourced by lib.sh where WHERE is guest.

SOCKET=/tmp/caisson.sock
modprobe -a rdma_rxe ib_uverbs rdma_ucm nvme_rdma
rdma link add rxe0 type rxe netdev eth0 || { echo "no soft-RoCE"; exit 1; }
cp /share/caisson /tmp/caisson
mkdir -p /tmp/target
cp /share/target/* /tmp/target/

# launch: start it and wait until every listener listens.
launch() {
    local seen
    seen=$(grep -c '  listening' /tmp/caisson.log 2>/dev/null)
    # shellcheck disable=SC2086 # words without blanks in them
    /tmp/caisson $TARGET_WORDS >>/tmp/caisson.log 2>&1 &
    echo $! >/tmp/caisson.pid
    within 20 listens $((seen + TARGET_LISTENERS))
}
listens() { [ "$(grep -c '  listening' /tmp/caisson.log)" -ge "$1" ]; }
caisson() { timeout 30 /tmp/caisson --socket $SOCKET "$@"; }

target() {
    local verb=$1 index=$2 nqn
    eval "nqn=\${NQN_$index:-}"
    shift 2
    case $verb in
        add-ns)
            caisson volume create "v$index-$1" --size "$2" --backing ram &&
                caisson subsystem add-ns "$nqn" "v$index-$1" --nsid "$1"
            ;;
        remove-ns) caisson subsystem remove-ns "$nqn" "$1" ;;
        resize-ns) caisson volume resize "v$index-$1" "$2" --shrink ;;
        listen) caisson listener add "$1" ;;
        unlisten) caisson listener remove "$1" ;;
        kill) kill -9 "$(cat /tmp/caisson.pid)" ;;
        restart) launch ;;
        *) echo "failed: no verb $verb"; return 1 ;;
    esac
}

# It must end in time and with success; its log stays with the results.
finish() {
    local pid status
    pid=$(cat /tmp/caisson.pid)
    kill "$pid"
    status=0
    wait "$pid" || status=$?
    cp /tmp/caisson.log /share/caisson.log
    [ $status = 0 ] || { echo "it ended with $status"; return 1; }
    ! grep -E 'panicked|ERROR' /tmp/caisson.log
}
launch || { echo "caisson does not start"; cat /tmp/caisson.log; cp /tmp/caisson.log /share/caisson.log; exit 1; }
