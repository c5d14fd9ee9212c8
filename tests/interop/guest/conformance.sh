# The conformance programs of the harness over RDMA, target and host in each, on the guest's soft-RoCE: a result for each test.
. /share/guest/lib.sh
soft_rdma || { echo "no device"; exit 1; }
export CAISSON_TRANSPORT=rdma CAISSON_ADDRESS="$ADDR"

mkdir -p /tmp/programs
cp /share/programs/* /tmp/programs/
count=0
for program in $PROGRAMS; do
    count=$((count + $(/tmp/programs/"$program" --list --skip tcp 2>/dev/null | grep -c ': test$')))
done
plan $count

for program in $PROGRAMS; do
    timeout 300 /tmp/programs/"$program" --skip tcp --test-threads=1 >"$out" 2>&1
    rc=$?
    cp "$out" "/share/output.$program"
    while read -r word name _ verdict _; do
        [ "$word" = test ] || continue
        case $verdict in
            ok) result "ok $program: $name" ;;
            FAILED) result "not ok $program: $name" ;;
        esac
    done <"$out"
    echo "$program ended with $rc: $(grep '^test result' "$out")"
done
