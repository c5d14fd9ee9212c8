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
    name=
    while read -r word test dots verdict rest; do
        # What a test writes to its output by itself stands between its name and its verdict, which then has a line of its own.
        case "$word $dots" in
            "test ...") name=$test ;;
            *) verdict=$word rest=$test ;;
        esac
        [ -n "$name" ] && [ -z "$rest" ] || continue
        case $verdict in
            ok) result "ok $program: $name"; name= ;;
            FAILED) result "not ok $program: $name"; name= ;;
        esac
    done <"$out"
    [ "$rc" = 0 ] || result "not ok $program: ended with $rc"
    echo "$program ended with $rc: $(grep '^test result' "$out")"
done
