# Shared by the scripts of this folder: where things are cached, where packages come from, how they are fetched.
# Sourced by bash. Writes only below $CACHE; the one thing installed on the machine is QEMU (ensure_qemu).

HERE=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
REPO=$(dirname "$(dirname "$HERE")")
CACHE=${CAISSON_TESTBED:-$REPO/.testbed}
# The guest's user space. nvme-cli of the release before (2.3) says some things otherwise than `basics` and `live` expect.
USER_SUITE=${CAISSON_TESTBED_USER:-trixie}
# A resolved package list older than this is looked up again; unreachable archives leave the old one in use.
MAX_AGE_DAYS=${CAISSON_TESTBED_MAX_AGE:-14}

note() { printf 'testbed: %s\n' "$*" >&2; }
die() { note "error: $*"; exit 1; }

# Lines of a data file without comments and blanks.
entries() { sed -e 's/#.*//' -e 's/[[:space:]]*$//' -e '/^$/d' "$HERE/$1"; }

# A 16-digit key of what stands on stdin.
key() { sha256sum | cut -c1-16; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else die "needs root for: $*"; fi
}

ensure_qemu() {
    command -v qemu-system-x86_64 >/dev/null && return
    note "installing qemu-system-x86"
    local log; log=$(mktemp)
    { as_root env DEBIAN_FRONTEND=noninteractive apt-get -q update &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install qemu-system-x86
    } >"$log" 2>&1 </dev/null || { tail -5 "$log" >&2; rm -f "$log"; die "could not install qemu-system-x86"; }
    rm -f "$log"
}

# The Debian mirror this machine itself uses, as its apt sources name it.
mirror() {
    if [ -n "${CAISSON_TESTBED_MIRROR:-}" ]; then echo "${CAISSON_TESTBED_MIRROR%/}"; return; fi
    local found
    found=$({
        cat /etc/apt/sources.list.d/*.sources 2>/dev/null | sed -nE 's/^URIs:[[:space:]]*//p' | tr -s ' ' '\n'
        cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
            sed -nE 's/^deb[[:space:]]+(\[[^]]*\][[:space:]]+)?([^[:space:]]+).*/\2/p'
    } | grep -E '/debian/?$' | head -n 1) || true
    [ -n "$found" ] || die "no Debian mirror among this machine's apt sources; set CAISSON_TESTBED_MIRROR"
    echo "${found%/}"
}

# apt_in SUITE COMMAND...: apt-get or apt-cache on a private state that knows SUITE only and thinks nothing installed.
apt_in() {
    local suite=$1 state=$CACHE/apt/$1 tool=$2; shift 2
    mkdir -p "$state"/{lists/partial,cache} "$CACHE/debs/partial"
    : >"$state/status"
    echo "deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror) $suite main" >"$state/sources"
    "$tool" -q -o APT::Architecture=amd64 -o APT::Architectures::=amd64 -o Acquire::Languages=none \
        -o Dir::Etc::SourceList="$state/sources" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State="$state" -o Dir::State::Lists="$state/lists" -o Dir::State::status="$state/status" \
        -o Dir::Cache="$state/cache" -o Dir::Cache::archives="$CACHE/debs" \
        -o Debug::NoLocking=1 -o APT::Sandbox::User="$(id -un)" -o Acquire::Retries=2 \
        -o APT::Install-Recommends=0 "$@" </dev/null
}

# The one stanza's fields of a package in SUITE (the newest version).
package_depends() { apt_in "$1" apt-cache --no-all-versions show "$2" | sed -nE 's/^Depends: //p' | head -n 1; }

# Names of the .deb files that hold SUITE's newest kernel of the plain (not cloud) flavour: follow the metapackage's
# dependencies through the packages that kernels are split into.
resolve_kernel() {
    local suite=$1 todo=linux-image-amd64 seen=" " name dep version
    while [ -n "$todo" ]; do
        name=${todo%% *}; todo=${todo#"$name"}; todo=${todo# }
        for dep in $(package_depends "$suite" "$name" | tr ',' '\n' | sed -E 's/^ *([^ |]+).*/\1/'); do
            [[ $dep =~ ^linux-(image|binary|modules|base)-[0-9] ]] || continue
            [[ $seen == *" $dep "* ]] && continue
            seen+="$dep "; todo+="${todo:+ }$dep"
            version=$(apt_in "$suite" apt-cache --no-all-versions show "$dep" | sed -n 's/^Version: //p' | head -n 1)
            [ -n "$version" ] || die "$suite has no $dep"
            echo "$dep=$version"
        done
    done
}

# The closure of packages.list in the guest's suite.
resolve_user() {
    apt_in "$1" apt-get -s install $(entries packages.list) |
        sed -nE 's/^Inst ([^ ]+) \(([^ ]+) .*\).*/\1=\2/p'
}

# resolved KIND SUITE REFRESH: path of the (cached) list of name=version, resolved anew when missing, old or asked for.
resolved() {
    local kind=$1 suite=$2 refresh=$3 id file
    id=$([ "$kind" = user ] && entries packages.list | key || echo plain)
    file=$CACHE/resolved/$kind-$suite-$id
    if [ "$refresh" = 1 ] || [ ! -s "$file" ] || [ -n "$(find "$file" -mtime +"$MAX_AGE_DAYS")" ]; then
        mkdir -p "$CACHE/resolved"
        note "resolving the $kind packages of $suite"
        if apt_in "$suite" apt-get update >"$CACHE/apt-$suite.log" 2>&1 &&
            "resolve_$kind" "$suite" | sort -u >"$file.new" && [ -s "$file.new" ]; then
            mv "$file.new" "$file"
        elif [ -s "$file" ]; then
            note "the archive cannot be reached; staying with the packages of $(date -r "$file" +%F)"
        else
            tail -5 "$CACHE/apt-$suite.log" >&2; die "could not resolve the $kind packages of $suite"
        fi
    fi
    echo "$file"
}

# unpacked SUITE LIST: directory that holds the files of the packages in LIST, fetched and unpacked once for its content.
unpacked() {
    local suite=$1 list=$2 root d pkg
    root=$CACHE/roots/$(key <"$list")
    if [ ! -e "$root/.complete" ]; then
        note "fetching $(wc -l <"$list") packages of $suite"
        (cd "$CACHE/debs" && apt_in "$suite" apt-get download $(cat "$list")) >"$CACHE/apt-$suite.log" 2>&1 ||
            { tail -5 "$CACHE/apt-$suite.log" >&2; die "download failed"; }
        rm -rf "$root" "$root.new"
        for d in bin sbin lib lib64; do mkdir -p "$root.new/usr/$d"; ln -s "usr/$d" "$root.new/$d"; done
        while IFS== read -r pkg d; do
            dpkg-deb --fsys-tarfile "$CACHE/debs/${pkg}_${d//:/%3a}"_*.deb | tar -x -C "$root.new" --keep-directory-symlink
        done <"$list"
        touch "$root.new/.complete"; mv "$root.new" "$root"
    fi
    echo "$root"
}
