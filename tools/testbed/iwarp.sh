# Soft-iWARP for the guest: Debian's kernels leave the module siw out, so it is built from Debian's own source of the very same
# version. Sourced by `prepare`, after lib.sh.

# What building a module takes besides its source; installed when it is missing.
ensure_compiler() {
    command -v make >/dev/null && command -v gcc >/dev/null && command -v xz >/dev/null && return
    note "installing gcc, make and xz-utils"
    local log; log=$(mktemp)
    { as_root env DEBIAN_FRONTEND=noninteractive apt-get -q update &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install gcc make xz-utils
    } >"$log" 2>&1 </dev/null || { tail -5 "$log" >&2; rm -f "$log"; die "could not install gcc, make and xz-utils"; }
    rm -f "$log"
}

# siw SUITE LIST RELEASE USER: path of siw.ko for the kernel of LIST (packages of SUITE), whose release is RELEASE. USER is the
# unpacked user space that the kernel's build programs run with.
siw() {
    local suite=$1 list=$2 release=$3 user=$4 version names abi built work tree kbuild program source
    version=$(sed -nE 's/^linux-image-[^=]*=//p' "$list" | head -n 1)
    built=$CACHE/modules/$release-$(echo "$version" | cat - "$HERE/iwarp.sh" | key)
    if [ -e "$built/siw.ko" ]; then echo "$built/siw.ko"; return; fi
    note "building siw for Linux $release"
    ensure_compiler
    abi=${release%-amd64}
    source=linux-source-$(echo "$release" | cut -d. -f1,2)
    names="linux-headers-$release linux-headers-$abi-common linux-kbuild-$abi $source"
    work=$built.new
    rm -rf "$work"; mkdir -p "$work/debs"
    # shellcheck disable=SC2046,SC2086 # one word a package
    (cd "$work/debs" && apt_in "$suite" apt-get download $(printf "%s=$version " $names)) >"$CACHE/siw.log" 2>&1 ||
        { tail -5 "$CACHE/siw.log" >&2; die "could not fetch what siw is built from: $names"; }
    for program in "$work"/debs/linux-headers-* "$work"/debs/linux-kbuild-*; do dpkg-deb -x "$program" "$work"; done
    dpkg-deb --fsys-tarfile "$work/debs/$source"_*.deb | tar -xO "./usr/src/$source.tar.xz" | xz -dc |
        tar -x -C "$work" --strip-components=4 "$source/drivers/infiniband/sw/siw"

    # Where the packages expect to be installed, they are told where they are; the programs of their own suite run with its
    # libraries; what this compiler calls otherwise, it is told in its own words. Without `vmlinux` no type information is made.
    tree=$work/usr/src/linux-headers-$release
    echo "include $work/usr/src/linux-headers-$abi-common/Makefile" >"$tree/Makefile"
    rm -f "$tree/vmlinux"
    kbuild=$work/usr/lib/linux-kbuild-$abi
    with_loader "$user" "$kbuild/scripts/basic/fixdep" "$kbuild/scripts/basic/fixdep"
    with_loader "$user" "$kbuild/scripts/mod/modpost" "$kbuild/scripts/mod/modpost.real-lsb-64"
    with_loader "$user" "$kbuild/tools/objtool/objtool" "$kbuild/tools/objtool/objtool.real-x86"
    cat >"$work/cc" <<'CC'
#!/bin/bash
words=()
for word; do
    case $word in -fmin-function-alignment=*) gcc "$word" -E -x c /dev/null >/dev/null 2>&1 || word=-falign-functions=${word#*=} ;; esac
    words+=("$word")
done
exec gcc "${words[@]}"
CC
    chmod +x "$work/cc"
    make -C "$tree" M="$work/siw" CONFIG_RDMA_SIW=m CC="$work/cc" modules >"$CACHE/siw.log" 2>&1 ||
        { tail -20 "$CACHE/siw.log" >&2; die "siw for Linux $release was not built: $CACHE/siw.log"; }
    strip --strip-debug "$work/siw/siw.ko"
    mkdir -p "$built"; mv "$work/siw/siw.ko" "$built/"
    rm -rf "$work"
    echo "$built/siw.ko"
}

# with_loader USER NAME PROGRAM: NAME runs PROGRAM with the loader and libraries of USER.
with_loader() {
    local user=$1 name=$2 program=$3
    if [ "$name" = "$program" ]; then mv "$program" "$program.program"; program=$program.program; fi
    printf '#!/bin/sh\nexec %s --library-path %s %s "$@"\n' "$user/usr/lib64/ld-linux-x86-64.so.2" \
        "$user/usr/lib/x86_64-linux-gnu" "$program" >"$name"
    chmod +x "$name"
}
