# Crypto-erase as a stock host sees it: Format NVM and Sanitize by nvme-cli, on a volume of a pool, beside its snapshot and another volume of the same domain, which nothing may change; what is
# refused where erasing is not allowed; a sanitize operation that waits for its key provider, over a kill of the target.
# Wants two exports of one pool: 0 may be erased, 1 may not.
if [ "$TARGET" = nvmet ]; then
    # The kernel's target offers neither.
    echo "plan 1" >>/share/results
    echo "skip erase: of caisson alone" >>/share/results
    exit 0
fi
# What the target logs while the key is away.
EXPECTED='an erase waits'
. /share/guest/lib.sh
plan 72

sub() { target caisson 0 "$@"; }
holds() { dd if="$1" bs=1M count=2 iflag=direct 2>/dev/null | cmp - "$2"; }
empty() { dd if="$1" bs=1M iflag=direct 2>/dev/null | cmp -n "$SIZE_0" - /dev/zero; }
# In the middle, too: what is at the front could be a host's cache.
fill() { dd if="$2" of="$1" bs=1M oflag=direct && dd if="$2" of="$1" bs=1M oflag=direct seek=9; }
dd if=/dev/urandom of=/tmp/one bs=1M count=2 2>/dev/null
dd if=/dev/urandom of=/tmp/two bs=1M count=2 2>/dev/null
dd if=/dev/urandom of=/tmp/block bs=4096 count=1 2>/dev/null
block() { nvme "$@" -s 100 -c 0 -z 4096 -d /tmp/block.back; }
cp /tmp/block /tmp/block.back

sanitize_log() { nvme sanitize-log "$C" >/tmp/sanitize && cat /tmp/sanitize; }
# sstat VALUE: what the log page says, as a number.
sstat() { sanitize_log && is "$(($(sed -nE 's/.*\(SSTAT\) *: *([^ ]+).*/\1/p' /tmp/sanitize)))" "$(($1))"; }
progress() { sed -nE 's/.*\(SPROG\) *: *([0-9]+).*/\1/p' /tmp/sanitize; }
sanitized() { sstat 0x101; }
scdw10() { grep -qE 'SCDW10\) *: *0x4$' /tmp/sanitize; }
# The number of the default domain's epoch.
epoch() { sub key status main >/tmp/keys && cat /tmp/keys && sed -nE 's/.*default: epoch ([0-9]+).*/\1/p' /tmp/keys | head -n 1 >/tmp/epoch; }
later() { local was; was=$(cat /tmp/epoch) && epoch && [ "$(cat /tmp/epoch)" -gt "$was" ]; }
nothing_erasing() { sub key status main >/tmp/keys && ! grep -q erasing /tmp/keys; }

check connect connect 0 --nr-io-queues=2 --reconnect-delay=1 --ctrl-loss-tmo=120 --keep-alive-tmo=5
B=$(device 0) || { echo "no block device"; exit 1; }
C=/dev/$(ctrl 0)
check connect-other connect 1 --nr-io-queues=1 --reconnect-delay=1 --ctrl-loss-tmo=120 --keep-alive-tmo=5
O=$(device 1)
OC=/dev/$(ctrl 1)

# What is offered, and what is not where hosts may not erase.
check id-ctrl nvme id-ctrl "$C"
cp "$out" /tmp/id
check format-offered test $(($(field oacs /tmp/id) & 2)) -ne 0
check crypto-erase-offered test $(($(field fna /tmp/id) & 4)) -ne 0
check sanitize-offered test $(($(field sanicap /tmp/id) & 7)) -eq 1
check effects-of-both says 'Format NVM *\] 00110007' nvme effects-log "$C"
check effects-of-sanitize grep -qE 'Sanitize *\] 02020003' "$prev"
check other-id-ctrl nvme id-ctrl "$OC"
cp "$out" /tmp/id
check nothing-offered is "$(($(field oacs /tmp/id))) $(($(field fna /tmp/id))) $(($(field sanicap /tmp/id)))" "0 0 0"
check other-filled fill "$O" /tmp/two
check format-not-allowed fails 'invalid command opcode' nvme format "$O" -s 2 --force
check sanitize-not-allowed fails 'invalid command opcode' nvme sanitize "$OC" -a 4
check sanitize-log-not-there fails 'invalid log page' nvme sanitize-log "$OC"

# A snapshot, on the other subsystem, of what is going to be erased.
check filled fill "$B" /tmp/one
check snapshot sub volume snapshot v0-1 kept
check snapshot-exported sub subsystem add-ns "$NQN_1" kept --nsid 2
K=$(device 1 2)
check snapshot-holds holds "$K" /tmp/one
others() { holds "$K" /tmp/one && holds "$O" /tmp/two; }

# Format NVM, with each secure erase setting.
check keys-before epoch
check format-crypto-erase says 'success' nvme format "$B" -s 2 --force
check empty-after-crypto-erase empty "$B"
check another-epoch later
check keys-of-it-gone nothing_erasing
check others-untouched others
check filled-again fill "$B" /tmp/one
check format-user-data-erase says 'success' nvme format "$B" -s 1 --force
check empty-after-user-data-erase empty "$B"
check a-further-epoch later
check filled-a-third-time fill "$B" /tmp/one
check format says 'success' nvme format "$B" -s 0 --force
check empty-after-format empty "$B"
check reserved-setting-refused fails 'invalid field' nvme format "$B" -s 3 --force
check unknown-format-refused fails 'invalid format' nvme admin-passthru "$C" --opcode=0x80 --namespace-id=1 --cdw10=0x401
check all-namespaces-refused fails 'invalid field' nvme admin-passthru "$C" --opcode=0x80 --namespace-id=0xffffffff --cdw10=0x400
check others-untouched-by-formats others

# Sanitize.
check never-sanitized sstat 0
check filled-to-sanitize fill "$B" /tmp/one
check block-erase-refused fails 'invalid field' nvme sanitize "$C" -a 2
check overwrite-refused fails 'invalid field' nvme sanitize "$C" -a 3
check still-never sstat 0
check no-failure-to-exit nvme sanitize "$C" -a 1
check sanitize nvme sanitize "$C" -a 4
check sanitized within 120 sanitized
check no-progress-any-more is "$(progress)" 65535
check command-is-told scdw10
check empty-after-sanitize empty "$B"
check others-untouched-by-sanitize others
check globally-erased says 'Global Data Erased Set|has not been written|Data Erased' nvme sanitize-log "$C" -H
check written-again fill "$B" /tmp/one
check not-globally-erased-any-more sstat 1

# While it waits for its key provider.
check key-away target lose-key 0
check sanitize-begins nvme sanitize "$C" -a 4
check in-progress sstat 2
check progress-is-told test "$(progress)" -lt 65535
check read-refused fails 'sanitize in progress' block read "$B"
check write-refused fails 'sanitize in progress' block write "$B"
check plain-read-fails not dd if="$B" of=/dev/null bs=4k count=1 iflag=direct
check second-refused fails 'sanitize in progress' nvme sanitize "$C" -a 4
check format-refused fails 'sanitize in progress' nvme format "$B" -s 2 --force
check fw-log-refused fails 'sanitize in progress' nvme fw-log "$C"
allowed() { nvme id-ctrl "$C" && nvme smart-log "$C" && nvme error-log "$C" && nvme get-feature "$C" -f 7; }
check admin-goes-on allowed
check others-serve others
# A new association: Connect, properties, Identify.
again() { disconnect 0 && connect 0 --nr-io-queues=2 --reconnect-delay=1 --ctrl-loss-tmo=120 --keep-alive-tmo=5 && within 20 ctrl 0; }
check connected-meanwhile again
C=/dev/$(ctrl 0)
check still-in-progress sstat 2
check killed target kill 0
check loss-is-seen within 30 not ctrl 0
check key-back target find-key 0
check restarted target restart 0
back() { C=/dev/$(ctrl 0) && sanitized; }
check sanitized-after-the-kill within 120 back
B=$(device 0)
O=$(device 1)
K=$(device 1 2)
check empty-after-the-kill empty "$B"
check others-untouched-after-all others
check log-is-whole says 'whole and signed' sub key audit --verify
