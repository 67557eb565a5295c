# What every guest does before its first scenario. NUMBER is 1 or 2.
set -e
ip link set lo up
# The addresses are ours: no second spent on finding out.
echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
ip link set eth0 up
ip address add "10.77.0.$NUMBER/24" dev eth0
ip address add "fd77::$NUMBER/64" dev eth0 nodad
modprobe -a crc32_generic rdma_rxe ib_uverbs rdma_ucm
rdma link add rxe0 type rxe netdev eth0
# The GIDs follow the addresses, a moment later.
gid=$(printf '0000:0000:0000:0000:0000:ffff:0a4d:000%s' "$NUMBER")
for _ in $(seq 100); do
    if grep -q ACTIVE /sys/class/infiniband/rxe0/ports/1/state &&
        grep -q "$gid" /sys/class/infiniband/rxe0/ports/1/gids/* 2>/dev/null; then
        exit 0
    fi
    sleep 0.1
done
echo "rxe0 has no GID $gid after 10 s" >&2
exit 1
