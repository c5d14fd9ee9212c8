# What every suite uses: checks and their results, requests to the harness, and finding what a connection brought.
# Sourced by dash in the guest, after /share/env. One result line a check goes to /share/results and the console.

out=/tmp/out

# On the console with the time since the guest's start.
result() {
    local up rest
    echo "$*" >>/share/results
    read -r up rest </proc/uptime
    echo "$up $*"
}

# plan N: how many checks the suite holds. The harness fails a suite that ran another number.
plan() { result "plan $1"; }

# Why the last command failed, in one line.
why() { tail -n 4 "$out" | tr '\n\r' '  ' | cut -c1-300; }

# run COMMAND...: run it with its output in $out; the one before it is then in $prev.
prev=/tmp/prev
run() {
    [ ! -e "$out" ] || mv "$out" "$prev"
    "$@" >"$out" 2>&1
}

# failed NAME: report it and keep the whole output beside the results.
failed() {
    result "not ok $1: $(why)"
    cp "$out" "/share/output.$1"
}

# check NAME COMMAND...: run it, report it.
check() {
    local name="$1"
    shift
    if run "$@"; then result "ok $name"; else failed "$name"; fi
}

# The same for what the guest kernel's own target does not offer: there, and only there, a failure is a skip (but not
# the shell's own: 127 is a command that does not exist).
beyond_nvmet() {
    local name="$1" rc=0
    shift
    run "$@" || rc=$?
    if [ $rc = 0 ]; then
        result "ok $name"
    elif [ "$TARGET" = nvmet ] && [ $rc != 127 ]; then
        result "skip $name: $(why)"
    else
        failed "$name"
    fi
}

# fails TEXT COMMAND...: the command must fail and say TEXT (an extended regular expression, any case).
fails() {
    local text="$1" rc=0
    shift
    "$@" >/tmp/fails 2>&1 || rc=$?
    cat /tmp/fails
    [ "$rc" != 124 ] || { echo "(ran out of time)"; return 1; }
    [ "$rc" != 0 ] || { echo "(succeeded, should have failed)"; return 1; }
    grep -qiE "$text" /tmp/fails
}

# says TEXT COMMAND...: the command must succeed and say TEXT.
says() {
    local text="$1"
    shift
    "$@" >/tmp/says 2>&1 || { cat /tmp/says; return 1; }
    cat /tmp/says
    grep -qiE "$text" /tmp/says || { echo "(does not say $text)"; return 1; }
}

# within SECONDS COMMAND...: try until it succeeds.
within() {
    local tries=$(($1 * 5))
    shift
    until "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 0.2
    done
}

not() { ! "$@"; }
is() { [ "$1" = "$2" ] || { echo "is $1, should be $2"; return 1; }; }

# No command may hang the suite.
nvme() { timeout 60 /usr/bin/nvme "$@"; }

# target VERB ARGUMENTS...: have the target's side changed; prints the answer, fails when it could not be done.
# Over the shared folder to the harness, or (see nvmet.sh) done here.
ask_harness() {
    local n tries=600
    # In a file, because many a caller is a subshell.
    n=$(($(cat /tmp/asked 2>/dev/null || echo 0) + 1))
    echo $n >/tmp/asked
    echo "$*" >/share/req.tmp
    mv /share/req.tmp "/share/req.$n"
    until [ -e "/share/ack.$n" ]; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { echo "no answer from the harness"; return 1; }
        sleep 0.1
    done
    cat "/share/ack.$n"
    ! grep -q '^failed' "/share/ack.$n"
}
target() { ask_harness "$@"; }

# connect INDEX [OPTIONS...]: connect to the target's INDEXth subsystem (0, 1, ...).
connect() {
    local index="$1"
    shift
    eval "nvme connect -t $TRANSPORT -a $ADDR -s \$PORT_$index -n \$NQN_$index \"\$@\""
}
disconnect() { eval "nvme disconnect -n \$NQN_$1"; }

# ctrl INDEX: name (nvme3) of the live controller connected to the INDEXth subsystem.
ctrl() {
    local c want
    eval "want=\$NQN_$1"
    for c in /sys/class/nvme/nvme*; do
        [ "$(cat "$c/subsysnqn" 2>/dev/null)" = "$want" ] && [ "$(cat "$c/state")" = live ] && echo "${c##*/}" && return
    done
    return 1
}

# ns INDEX NSID: name (nvme3n1) of the block device of a namespace of the INDEXth subsystem.
ns() {
    local s b want
    eval "want=\$NQN_$1"
    for s in /sys/class/nvme-subsystem/*; do
        [ "$(cat "$s/subsysnqn" 2>/dev/null)" = "$want" ] || continue
        for b in "$s"/nvme*n*; do
            [ "$(cat "$b/nsid" 2>/dev/null)" = "$2" ] && [ -b "/dev/${b##*/}" ] && echo "${b##*/}" && return
        done
    done
    return 1
}

# device INDEX [NSID]: wait for the block device and print its path.
device() {
    within 20 ns "$1" "${2:-1}" >/dev/null && echo "/dev/$(ns "$1" "${2:-1}")"
}

# bytes NAME: size of a block device.
bytes() { echo $(($(cat "/sys/block/$1/size") * 512)); }

# field NAME FILE: value of a "name : value" line as nvme-cli prints them.
field() { sed -nE "s/^$1 *: *([^ ]+).*/\1/p" "$2" | head -n 1; }

# Loads what soft-RoCE or soft-iWARP (FABRIC) takes, and makes its devices: one on eth0, or those of the suite's own function DEVICES.
soft_rdma() { modprobe -a "$FABRIC_MODULE" ib_uverbs rdma_ucm nvme_rdma && "${DEVICES:-one_device}"; }
one_device() { rdma link add "${FABRIC}0" type "$FABRIC" netdev eth0; }
if [ "$FABRIC" = rxe ]; then FABRIC_MODULE=rdma_rxe; else FABRIC_MODULE=$FABRIC; fi

# What asks for digests; RDMA has none.
DIGESTS=
[ "$TRANSPORT" != tcp ] || DIGESTS="--hdr-digest --data-digest"

# Once the suite is over; a target inside the guest is ended then (caisson.sh).
ends() { :; }

modprobe -a nvme_tcp
mkdir -p /etc/nvme
echo "$HOSTNQN" >/etc/nvme/hostnqn
echo "$HOSTID" >/etc/nvme/hostid
if [ "$TARGET" = nvmet ]; then
    . /share/guest/nvmet.sh
elif [ "$TARGET" = caisson ] && [ "$WHERE" = guest ]; then
    . /share/guest/caisson.sh
fi
