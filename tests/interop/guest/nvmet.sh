# The self-test's target: the guest kernel's own (nvmet_tcp over loopback, nvmet_rdma over soft-RoCE), set up from the same /share/env, and the
# same verbs that the harness answers for Caisson. It proves the checks, so it must do nothing that Caisson need not.

N=/sys/kernel/config/nvmet
modprobe -a nvmet_tcp loop
if [ "$TRANSPORT" = rdma ]; then
    modprobe nvmet_rdma
    soft_rdma
fi

# Namespaces are files in memory. nvmet gives a file on tmpfs 4096-byte blocks; 512 go through a loop device.
store() { echo "/tmp/store.$1.$2"; }

# add_ns INDEX NSID SIZE BLOCK
add_ns() {
    local nqn file path dir
    eval "nqn=\$NQN_$1"
    file=$(store "$1" "$2")
    [ -e "$file" ] || truncate -s "$3" "$file" || return 1
    path=$file
    if [ "$4" = 512 ]; then
        path=$(losetup --find --show "$file") || return 1
        echo "$path" >"$file.loop"
    fi
    dir=$N/subsystems/$nqn/namespaces/$2
    mkdir "$dir" || return 1
    echo "$path" >"$dir/device_path"
    [ "$4" = 512 ] || echo 1 >"$dir/buffered_io"
    echo 1 >"$dir/enable"
}

add_subsystem() {
    mkdir "$N/subsystems/$1" || return 1
    if [ "$2" = any ]; then
        echo 1 >"$N/subsystems/$1/attr_allow_any_host"
    else
        mkdir -p "$N/hosts/$2"
        ln -s "$N/hosts/$2" "$N/subsystems/$1/allowed_hosts/$2"
    fi
}

# add_port ID PORT [TRANSPORT]
add_port() {
    local p=$N/ports/$1
    mkdir "$p" || return 1
    echo "${3:-$TRANSPORT}" >"$p/addr_trtype"
    echo ipv4 >"$p/addr_adrfam"
    echo "$ADDR" >"$p/addr_traddr"
    echo "$2" >"$p/addr_trsvcid"
}

publish() { ln -s "$N/subsystems/$2" "$N/ports/$1/subsystems/$2"; }
withdraw() { rm -f "$N/ports/$1/subsystems/$2"; }

target() {
    local verb=$1 index=$2 nqn port dir
    eval "nqn=\${NQN_$index:-}; port=\${PORT_$index:-}"
    shift 2
    dir=$N/subsystems/$nqn
    case $verb in
        add-ns) add_ns "$index" "$1" "$2" 4096 ;;
        remove-ns)
            echo 0 >"$dir/namespaces/$1/enable" && rmdir "$dir/namespaces/$1" && rm -f "$(store "$index" "$1")"
            ;;
        resize-ns) truncate -s "$2" "$(store "$index" "$1")" && echo 1 >"$dir/namespaces/$1/revalidate_size" ;;
        allocated) stat -c '%b * %B' "$(store "$index" "$1")" | xargs expr ;;
        allow) mkdir -p "$N/hosts/$1" && ln -s "$N/hosts/$1" "$dir/allowed_hosts/$1" ;;
        # nvmet lets a removed host stay until it reconnects; its connection is ended so that the rest can be seen.
        remove-host) rm "$dir/allowed_hosts/$1" && withdraw "$port" "$nqn" && publish "$port" "$nqn" ;;
        kill) withdraw "$port" "$nqn" ;;
        restart) publish "$port" "$nqn" ;;
        listen) port=${1##*:} && nqn=$NQN_0 && add_port "$port" "$port" rdma && publish "$port" "$nqn" ;;
        unlisten) port=${1##*:} && nqn=$NQN_0 && withdraw "$port" "$nqn" && rmdir "$N/ports/$port" ;;
        add-subsystem) add_subsystem "$1" any && publish "$port" "$1" && publish "$DISCOVERY_PORT" "$1" ;;
        remove-subsystem) withdraw "$port" "$1" && withdraw "$DISCOVERY_PORT" "$1" && rmdir "$N/subsystems/$1" ;;
        *) echo "failed: no verb $verb"; return 1 ;;
    esac
}

# The configfs port ids are the port numbers. A port's discovery log lists what is published on that port, so all are
# on the discovery port too.
set_up() {
    local i=0 nqn port size block
    add_port "$DISCOVERY_PORT" "$DISCOVERY_PORT" || return 1
    if [ "$WHERE" = guest ]; then add_port "$TCP_PORT" "$TCP_PORT" tcp || return 1; fi
    while [ "$i" -lt "$EXPORTS" ]; do
        eval "nqn=\$NQN_$i port=\$PORT_$i size=\$SIZE_$i block=\$BLOCK_$i"
        add_subsystem "$nqn" "$ALLOW" && add_ns "$i" 1 "$size" "$block" || return 1
        [ -e "$N/ports/$port" ] || add_port "$port" "$port" || return 1
        publish "$port" "$nqn" && publish "$DISCOVERY_PORT" "$nqn" || return 1
        if [ "$WHERE" = guest ]; then publish "$TCP_PORT" "$nqn" || return 1; fi
        i=$((i + 1))
    done
}
set_up || { echo "could not set up nvmet"; exit 1; }
