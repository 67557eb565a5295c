#!/bin/busybox sh
# The first process of a guest. Puts the host's root file system, which is shared read-only, under
# a writable layer in memory, mounts what programs expect, and hands over to the agent.

b=/bin/busybox

fail() {
    echo "lab: $*" >/dev/console
    $b poweroff -f
}

# AGENT, HOST_NAME, MODULES, PLACES and LIFETIME.
. /settings

$b mount -t devtmpfs dev /dev || fail "no devtmpfs"

# Nothing of the host hangs on a guest: it ends when its time is up, whatever happens in it.
($b sleep "$LIFETIME"; $b poweroff -f) &

$b mount -t proc proc /proc
$b mount -t sysfs sys /sys

for module in $($b cat /modules/order); do
    # Some come compressed; busybox knows by their content.
    $b insmod "/modules/$module" || fail "cannot load $module"
done

# "loose": the host's files do not change while a guest runs, or at least nobody minds.
$b mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=512000,cache=loose host /host ||
    fail "cannot mount the host's root file system"
$b mount -t tmpfs -o mode=0755,size=80% tmpfs /rw
$b mkdir /rw/upper /rw/work
$b mount -t overlay -o lowerdir=/host,upperdir=/rw/upper,workdir=/rw/work overlay /root ||
    fail "cannot put a writable layer over it"

$b mount --move /dev /root/dev
$b mkdir -p /root/dev/pts /root/dev/shm
$b mount -t devpts -o ptmxmode=0666 devpts /root/dev/pts
$b mount -t tmpfs -o mode=1777 tmpfs /root/dev/shm
$b mount --move /proc /root/proc
$b mount --move /sys /root/sys
$b mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
$b mount -t bpf bpf /root/sys/fs/bpf
$b mount -t tracefs tracefs /root/sys/kernel/tracing
$b mount -t debugfs debugfs /root/sys/kernel/debug
# What the host's processes left there means nothing here.
$b mount -t tmpfs -o mode=0755 tmpfs /root/run
$b mount -t tmpfs -o mode=1777 tmpfs /root/tmp
$b mount -t tmpfs -o mode=1777 tmpfs /root/var/tmp
# Programs under test, if they lie in a place that was just hidden.
for place in $PLACES; do
    if [ ! -e "/root$place" ]; then
        $b mkdir -p "/root$place"
        $b mount --bind "/host$place" "/root$place"
    fi
done

$b mkdir -p /root/lib/modules
$b ln -sfn "$MODULES" "/root/lib/modules/$($b uname -r)"
$b hostname "$HOST_NAME"
[ -x "/root$AGENT" ] || fail "no agent at $AGENT"
exec $b switch_root /root "$AGENT" init
