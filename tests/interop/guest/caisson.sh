# The target inside the guest, for what only a machine with the transport can serve: RDMA over rdma_rxe. Started from
# /share/caisson with the words that the harness made, and the same verbs that the harness answers elsewhere.
# Sourced by lib.sh where WHERE is guest.

SOCKET=/tmp/caisson.sock
# A suite may want to be without a device at first.
[ "${DEVICE:-now}" = later ] || soft_rdma || { echo "no device of type $FABRIC"; exit 1; }
cp /share/caisson /tmp/caisson
mkdir -p /tmp/target
cp /share/target/* /tmp/target/
chmod 600 /tmp/target/*.passphrase 2>/dev/null

# launch INDEX: start process INDEX and wait until every listener of it listens.
launch() {
    local seen words listeners log
    log=/tmp/caisson.$1.log
    eval "words=\$TARGET_WORDS_$1; listeners=\$TARGET_LISTENERS_$1"
    seen=$(grep -c '  listening' "$log" 2>/dev/null)
    # shellcheck disable=SC2086 # words without blanks in them
    /tmp/caisson $words >>"$log" 2>&1 &
    echo $! >"/tmp/caisson.$1.pid"
    within 30 listens "$log" $((seen + listeners))
}
listens() { [ "$(grep -c '  listening' "$1")" -ge "$2" ]; }
caisson() { timeout 30 /tmp/caisson --socket $SOCKET "$@"; }
# The process of an export: one for all where it is managed while it runs.
process() { if [ "$1" -lt "$TARGET_PROCESSES" ]; then echo "$1"; else echo 0; fi; }

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
        allow) caisson host allow "$nqn" "$1" ;;
        remove-host) caisson host remove "$nqn" "$1" ;;
        add-subsystem) caisson subsystem create "$1" --allow-any-host ;;
        remove-subsystem) caisson subsystem delete "$1" ;;
        listen) caisson listener add "$1" ;;
        unlisten) caisson listener remove "$1" ;;
        caisson) caisson "$@" ;;
        lose-key) mv /tmp/target/pool.keys /tmp/target/pool.keys.away ;;
        find-key) mv /tmp/target/pool.keys.away /tmp/target/pool.keys ;;
        kill) kill -9 "$(cat "/tmp/caisson.$(process "$index").pid")" ;;
        restart) launch "$(process "$index")" ;;
        *) echo "failed: no verb $verb"; return 1 ;;
    esac
}

# Each must end in time and with success; the logs stay with the results.
finish() {
    local i=0 pid status bad=0
    while [ $i -lt "$TARGET_PROCESSES" ]; do
        pid=$(cat "/tmp/caisson.$i.pid")
        kill "$pid"
        status=0
        wait "$pid" || status=$?
        cp "/tmp/caisson.$i.log" /share/
        [ $status = 0 ] || { echo "process $i ended with $status"; bad=1; }
        # A suite names what it has gone wrong on purpose.
        ! grep -E 'panicked|ERROR' "/tmp/caisson.$i.log" | grep -vE "${EXPECTED:-^$}" || bad=1
        i=$((i + 1))
    done
    touch /tmp/finished
    return $bad
}
# What the harness looks for elsewhere when a suite is over.
ends() { [ -e /tmp/finished ] || run finish || failed target-ends-cleanly; }

started=0
while [ $started -lt "$TARGET_PROCESSES" ]; do
    launch $started || { echo "caisson does not start"; cat /tmp/caisson.*.log; cp /tmp/caisson.*.log /share/; exit 1; }
    started=$((started + 1))
done
