# A kernel's own TPM device: a pool whose key file is sealed over /dev/tpmrm0, before and after a change of the machine's measured state.
. /share/guest/lib.sh
cp /share/caisson /tmp/caisson
export LC_ALL=C
pass='correct horse battery'
key='tpm2:pcrs=sha256+7,8?file=/tmp/tpm.key'
log=/tmp/export.log
nqn=nqn.2024-01.com.example:tpm

caisson() { timeout 200 /tmp/caisson --socket /tmp/caisson.sock "$@"; }
sealed() { CAISSON_PASSPHRASE="$pass" caisson "$@"; }
exports() {
    /tmp/caisson --socket /tmp/caisson.sock export pool:/tmp/p --nqn $nqn --size 16M --pool-size 256M --key "$key" \
        --listen tcp://127.0.0.1:4421 >$log 2>&1 &
    pid=$!
    within 200 ready || { cat $log; return 1; }
}
ready() { grep -qE 'Ctrl-C|^error' $log; }
serves() { exports && grep -q 'Ctrl-C' $log; }
ended() { kill "$pid" 2>/dev/null; wait "$pid"; }
perf() {
    caisson perf tcp://127.0.0.1:4421 --nqn $nqn --pattern "$1" --block-size 64k --bytes 1M --size 1M --verify --quiet
}
# TPM2_PCR_Extend of register 8 with 32 zeroes, and no password (TPM 2.0 part 3, 22.2): what a boot loader does.
extend() {
    {
        printf '\200\002\000\000\000\101\000\000\001\202\000\000\000\010\000\000\000\011\100\000\000\011\000\000\000\000\000\000\000\000\001\000\013'
        head -c 32 /dev/zero
    } >/tmp/extend
    dd if=/tmp/extend of=/dev/tpmrm0 bs=65 count=1
}
refused() { exports || true; ended && return 1; grep -q 'register' $log && grep -q 'key reseal' $log; }

plan 10
check there test -c /dev/tpmrm0
check made says 'which this machine.s TPM opens by itself' sealed key create --key "$key"
check serves-with-it serves
check written perf write
check ended ended
# Nobody gives a passphrase: the TPM opens it.
check opened-by-the-tpm eval 'serves && perf read && ended'
check extended extend
check refused-in-another-state refused
check sealed-anew says 'as it is now' sealed key reseal --key "$key"
check opened-in-the-new-state eval 'serves && perf read && ended'
cp $log /share/export.log
