# Changes of a running target as the connected host sees them: namespaces added, resized and removed, hosts let in and
# put out. Wants one export in a subsystem that allows this host only, under a target managed while it runs.
. /share/guest/lib.sh
plan 24
MIB=1048576

check connect connect 0 --nr-io-queues=2
check first-namespace device 0 1
C=/dev/$(ctrl 0)
pattern() { dd if=/dev/urandom of=/tmp/pattern bs=64k count=1 && dd if=/tmp/pattern of="$1" bs=64k oflag=direct seek=1; }
holds() { dd if="$1" bs=64k count=1 skip=1 iflag=direct | cmp - /tmp/pattern; }
has_size() { test "$(bytes "$(ns 0 "$1")")" = "$2"; }

check add-namespace target add-ns 0 2 $((32 * MIB))
check added-is-seen device 0 2
check added-has-its-size has_size 2 $((32 * MIB))
check added-is-listed says '0x2$' nvme list-ns "$C"
check added-holds-data pattern "/dev/$(ns 0 2)"
check added-gives-it-back holds "/dev/$(ns 0 2)"
check changed-list-was-read says 'no ns changed' nvme changed-ns-list-log "$C"

check grow target resize-ns 0 2 $((48 * MIB))
check growth-is-seen within 15 has_size 2 $((48 * MIB))
check grown-keeps-data holds "/dev/$(ns 0 2)"
check shrink target resize-ns 0 2 $((16 * MIB))
check shrinking-is-seen within 15 has_size 2 $((16 * MIB))

check remove-namespace target remove-ns 0 2
check removal-is-seen within 15 not ns 0 2
check other-namespace-stays pattern "/dev/$(ns 0 1)"

OTHER=nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-00000000beef
other() { connect 0 --hostnqn=$OTHER --hostid=00000000-0000-4000-8000-00000000beef; }
check stranger-refused fails 'failed|could not|invalid|denied|error' other
check stranger-finds-nothing not says "subnqn: *$NQN_0" \
    nvme discover -t $TRANSPORT -a "$ADDR" -s "$PORT_0" --hostnqn=$OTHER --hostid=00000000-0000-4000-8000-00000000beef
check remove-host target remove-host 0 "$HOSTNQN"
check removed-host-is-disconnected within 20 not ctrl 0
disconnect 0 >/dev/null 2>&1
check removed-host-refused fails 'failed|could not|invalid|denied|error' connect 0
check allow-host target allow 0 "$HOSTNQN"
check allowed-host-connects connect 0
disconnect 0 >/dev/null
