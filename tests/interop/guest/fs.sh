# File systems over the target: make, mount, fill, leave, come back, check, compare, trim.
# Wants one export of 4096-byte blocks that deallocates.
. /share/guest/lib.sh
plan 33
modprobe -a ext4 xfs

TREE=/usr/lib/modules
# What a tree holds: every name, and every file's content.
digest() { (cd "$1" && find . | sort && find . -type f | sort | xargs sha256sum); }
digest $TREE >/tmp/tree

make_ext4() { mkfs.ext4 -F -q "$1"; }
make_xfs() { mkfs.xfs -f -q "$1"; }
check_ext4() { e2fsck -f -n "$1"; }
check_xfs() { xfs_repair -n "$1"; }
copy_tree() { cp -r $TREE/. /mnt/tree; }
same_tree() { digest /mnt/tree >/tmp/copy && cmp /tmp/tree /tmp/copy; }
# Bytes that the namespace takes, as NUSE tells it (the kernel's target does not: its file is looked at).
allocated() {
    if [ "$TARGET" = nvmet ]; then target allocated 0 1; else echo $(($(nvme id-ns "$B" | sed -n 's/^nuse *: *//p') * 4096)); fi
}
arrives() { B=$(device 0); }
# Trimming frees the removed tree's space on the target: at least half of what the tree took.
shrinks() { test "$(allocated)" -lt "$1"; }
# xfs frees the extents of removed files some time after: trim until they came.
trims_away() { fstrim /mnt && shrinks "$1"; }

discard_all() { connect 0 && arrives && blkdiscard -f "$B" && within 5 shrinks 65536; }

for fs in ext4 xfs; do
    check $fs-connect connect 0 --nr-io-queues=2
    check $fs-device arrives
    check $fs-mkfs make_$fs "$B"
    check $fs-mount mount -t $fs "$B" /mnt
    mkdir /mnt/tree
    check $fs-write copy_tree
    check $fs-unmount umount /mnt
    check $fs-disconnect disconnect 0
    check $fs-reconnect connect 0 $DIGESTS
    check $fs-device-again arrives
    check $fs-fsck check_$fs "$B"
    check $fs-mount-again mount -t $fs "$B" /mnt
    check $fs-compare same_tree
    full=$(allocated)
    rm -rf /mnt/tree
    sync
    check $fs-trim says 'trimmed' fstrim -v /mnt
    tree=$(($(du -sk $TREE | cut -f1) * 1024))
    check $fs-trim-frees-space within 15 trims_away $((full - tree / 2))
    umount /mnt
    check $fs-fsck-after-trim check_$fs "$B"
    echo "$fs: $tree bytes of files, $full allocated before the trim, $(allocated) after"
    check $fs-disconnect-again disconnect 0
done
check discard-all-frees-all discard_all
