# What tools/testbed/side-by-side runs in the guest: several targets, one host, fio in turn.
. /share/settings
ADDR=10.0.2.15
MIB=64
modprobe -a rdma_rxe ib_uverbs rdma_ucm nvme_rdma nvmet_rdma nvme_tcp || exit 1
modprobe brd rd_nr=1 rd_size=$((MIB * 1024)) || exit 1
rdma link add rxe0 type rxe netdev eth0 || exit 1
cp /share/caisson /tmp/caisson

serve() { # NAME COMMAND...
    local name=$1 tries=100
    shift
    # glibc copies with `rep movsb` from 4 KiB on, which a processor does in cache lines and an emulator byte by byte. The guest's
    # kernel, and so its target, copies with moves.
    GLIBC_TUNABLES=glibc.cpu.x86_rep_movsb_threshold=1073741824 "$@" >"/share/$name.log" 2>&1 &
    until grep -q '  listening' "/share/$name.log"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || { cat "/share/$name.log"; exit 1; }
        sleep 0.1
    done
}
caisson() { # NAME LISTENER
    serve "$1" /tmp/caisson --socket "/tmp/$1.sock" export "ram:${MIB}M" --listen "$2" --nqn "nqn.2026-01.test:$1"
}
caisson rdma "rdma://$ADDR:4420"
for name in $OTHERS; do
    case $name in
        tcp) caisson tcp "tcp://$ADDR:4430" ;;
        bare*)
            [ -x /tmp/bare ] || cp /share/bare /tmp/bare
            serve "$name" /tmp/bare "$ADDR:$((4500 + ${name#bare}))" "nqn.2026-01.test:$name" "${name#bare}"
            ;;
    esac
done
N=/sys/kernel/config/nvmet
mkdir "$N/subsystems/nqn.2026-01.test:nvmet" "$N/subsystems/nqn.2026-01.test:nvmet/namespaces/1" "$N/ports/1" || exit 1
echo 1 >"$N/subsystems/nqn.2026-01.test:nvmet/attr_allow_any_host"
echo /dev/ram0 >"$N/subsystems/nqn.2026-01.test:nvmet/namespaces/1/device_path"
echo 1 >"$N/subsystems/nqn.2026-01.test:nvmet/namespaces/1/enable"
echo rdma >"$N/ports/1/addr_trtype"
echo ipv4 >"$N/ports/1/addr_adrfam"
echo $ADDR >"$N/ports/1/addr_traddr"
echo 4421 >"$N/ports/1/addr_trsvcid"
ln -s "$N/subsystems/nqn.2026-01.test:nvmet" "$N/ports/1/subsystems/nqn.2026-01.test:nvmet" || exit 1

join() { # NAME TRANSPORT PORT
    nvme connect -t "$2" -a $ADDR -s "$3" -n "nqn.2026-01.test:$1" --nr-io-queues=1 --queue-size=64 >/dev/null || exit 1
    local s b tries=100
    while [ $tries -gt 0 ]; do
        for s in /sys/class/nvme-subsystem/*; do
            [ "$(cat "$s/subsysnqn")" = "nqn.2026-01.test:$1" ] || continue
            for b in "$s"/nvme*n1; do
                [ -b "/dev/${b##*/}" ] && { eval "DEV_$1=/dev/${b##*/}"; return; }
            done
        done
        tries=$((tries - 1))
        sleep 0.1
    done
    exit 1
}
join rdma rdma 4420
join nvmet rdma 4421
for name in $OTHERS; do
    case $name in
        tcp) join tcp tcp 4430 ;;
        bare*) join "$name" rdma $((4500 + ${name#bare})) ;;
    esac
done
# Everything that is read was written.
for name in rdma nvmet $OTHERS; do
    eval "dev=\$DEV_$name"
    dd if=/dev/urandom of="$dev" bs=1M count=$MIB oflag=direct 2>/dev/null || exit 1
done

# fio stays on the first virtual processor: left to itself it moves, and where it runs beside whom then decides more than which target it drives.
one() { # ROUND CASE TARGET DIRECTION BLOCK DEPTH
    local dev line
    eval "dev=\$DEV_$3"
    line=$(fio --name=x --filename="$dev" --ioengine=libaio --direct=1 --rw="rand$4" --bs="$5" --iodepth="$6" --size=${MIB}M --cpus_allowed=0 \
        --norandommap --randrepeat=0 --time_based --ramp_time=0.3 --runtime="$SECONDS_EACH" --output-format=terse --terse-version=3 | tail -n 1)
    # Reads are fields 8 (IOPS) and 40 (mean latency in us), writes 49 and 81.
    if [ "$4" = read ]; then set -- "$@" 8 40; else set -- "$@" 49 81; fi
    echo "RESULT $1 $2 $3 $(echo "$line" | cut -d';' -f"$7") $(echo "$line" | cut -d';' -f"$8")" | tee -a /share/results
}
round=1
while [ $round -le "$ROUNDS" ]; do
    for block in 4k 128k; do
        for depth in 1 32; do
            for way in read write; do
                name=$block-$way-d$depth
                case $name in *"$ONLY"*) ;; *) continue ;; esac
                for target in rdma nvmet $OTHERS; do one $round "$name" $target $way $block $depth; done
            done
        done
    done
    round=$((round + 1))
done
