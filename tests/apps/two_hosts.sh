#!/bin/sh
# Runs a server and a client on two hosts: two network namespaces with a cable between them, on
# which 10.79.0.1 (the client) and 10.79.0.2 (the server) are. Both find an RDMA device in sysfs
# that cannot be opened. The server's process id goes to stdout, and last what smcr-stat says.
#
# To be run by `unshare --net --mount`; $1 and $2 are the command lines, $3 is smcr-stat.
set -eu
mount --make-rprivate /
mount -t tmpfs none /dev/shm
mount -t tmpfs none /sys/class

device=/sys/class/infiniband/gone0
port=$device/ports/1
mkdir -p $port/gids $port/gid_attrs/types $port/gid_attrs/ndevs
echo '1: CA' >$device/node_type
echo '4: ACTIVE' >$port/state
echo Ethernet >$port/link_layer
echo 0000:0000:0000:0000:0000:ffff:0a4f:0001 >$port/gids/0
echo 'RoCE v2' >$port/gid_attrs/types/0
echo cable >$port/gid_attrs/ndevs/0

unshare --net sleep 600 >&2 &
other=$!
while [ "$(readlink /proc/$other/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
there="nsenter --net=/proc/$other/ns/net"
ip link add cable type veth peer name cable netns $other
ip addr add 10.79.0.1/24 dev cable
ip link set cable up
$there ip addr add 10.79.0.2/24 dev cable
$there ip link set cable up

$there sh -c "exec $1" &
server=$!
echo $server
while ! $there ss -Hltn | grep -q :7000; do
    kill -0 $server
    sleep 0.02
done
sh -c "exec $2"
wait $server
kill $other
"$3" --json --all
