# Discovery that stays: a persistent discovery controller, the events it sends when the target changes, and
# connect-all. Wants two exports that any host may use, under a target managed while it runs.
. /share/guest/lib.sh
plan 25

# The device of the persistent discovery controller.
dc() {
    local c
    for c in /sys/class/nvme/nvme*; do
        [ "$(cat "$c/cntrltype" 2>/dev/null)" = discovery ] && [ "$(cat "$c/state")" = live ] && echo "${c##*/}" && return
    done
    return 1
}
discover() { nvme discover -t $TRANSPORT -a "$ADDR" -s "$DISCOVERY_PORT" "$@"; }
again() { nvme discover --device="$(dc)" -t $TRANSPORT -a "$ADDR" -s "$DISCOVERY_PORT" "$@"; }
generation() { sed -nE 's/.*Generation counter ([0-9]+).*/\1/p' "$1"; }
# How often the kernel was told that the discovery log changed: AER type 2 (notice), information F0h, log page 70h.
events() { grep -c 'NVME_AEN=0x70f002' /tmp/events; }
more_events() { test "$(events)" -gt "$1"; }
newer() { again >/tmp/log && test "$(generation /tmp/log)" -gt "$1"; }

udevadm monitor --kernel --property --subsystem-match=nvme >/tmp/events 2>&1 &
monitor=$!

# lists LOG NQN TYPE: whether a saved log has an entry of this type for this NQN.
lists() { awk -v nqn="$2" -v type="$3" '/^subtype:/ { t = $0 } /^subnqn:/ && $2 == nqn && index(t, type) { n++ } END { exit !n }' "$1"; }
save() { "$@" >/tmp/log 2>&1; rc=$?; cat /tmp/log; return $rc; }

check discover save discover
check first-is-listed lists /tmp/log "$NQN_0" 'nvme subsystem'
check second-is-listed lists /tmp/log "$NQN_1" 'nvme subsystem'
check itself-is-listed lists /tmp/log nqn.2014-08.org.nvmexpress.discovery 'current discovery subsystem'
check nothing-stays-connected not dc

check persistent-discover save discover --persistent --keep-alive-tmo=5
check controller-stays within 5 dc
check controller-is-discovery grep -q nqn.2014-08.org.nvmexpress.discovery "/sys/class/nvme/$(dc)/subsysnqn"
check discover-through-it save again
check same-log lists /tmp/log "$NQN_1" 'nvme subsystem'
before=$(generation /tmp/log)
check id-ctrl-of-discovery says 'cntrltype *: *2' nvme id-ctrl "/dev/$(dc)"

NEW=nqn.2026-01.test.caisson:interop-new
seen=$(events)
check add-subsystem target add-subsystem 0 $NEW
check addition-makes-an-event within 15 more_events "$seen"
check generation-grows newer "$before"
check new-is-listed lists /tmp/log $NEW 'nvme subsystem'
before=$(generation /tmp/log)
seen=$(events)
check remove-subsystem target remove-subsystem 0 $NEW
check removal-makes-an-event within 15 more_events "$seen"
check generation-grows-again newer "$before"
check removed-is-not-listed not lists /tmp/log $NEW 'nvme subsystem'

kept() { sleep 8 && dc; }
check kept-alive kept
check connect-all nvme connect-all -t $TRANSPORT -a "$ADDR" -s "$DISCOVERY_PORT" --persistent
check first-is-connected device 0
check second-is-connected device 1
check disconnect-all nvme disconnect-all
check all-gone within 10 not ls /sys/class/nvme/nvme0
kill $monitor
