#!/bin/bash
# A throw-away real Slurm on this machine, as root: munged, slurmctld, and NODES slurmd, each in net,
# uts, pid, ipc and mount namespaces of its own. A node has its own address, host name, /dev/shm and
# $DIR/local, and can be crashed or cut off (node.sh). Then: . $DIR/env.sh
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export DIR=${DIR:?a folder for the state of the cluster} NODES=${NODES:-4}
net=${NET:-10.77.0} bridge=${BRIDGE:-slurmbr0} port=${PORT:-16817}

mkdir -p "$DIR"/{munge,state,spool,run,log,etc,local,small}
chmod 755 "$DIR" "$DIR/munge" # munge wants its socket open to all
chmod 1777 "$DIR/local"
mount -t tmpfs -o size="${SMALL:-8m}" small "$DIR/small" # a disk that is soon full, on all nodes

cp /etc/hosts "$DIR/etc/hosts"
lines=
for i in $(seq 1 "$NODES"); do
  address=$net.$((10 + i))
  lines+="NodeName=node$i NodeHostname=node$i NodeAddr=$address Port=17000\n"
  echo "$address node$i" >>"$DIR/etc/hosts"
done
sed -e "s#@DIR@#$DIR#g;s#@HOST@#$(hostname -s)#;s#@ADDRESS@#$net.1#;s#@PORT@#$port#" \
  -e "s#@NODES@#$lines#" "$here/slurm.conf.tmpl" >"$DIR/etc/slurm.conf"
printf 'CgroupPlugin=autodetect\nIgnoreSystemd=yes\n' >"$DIR/etc/cgroup.conf"
echo "export SLURM_CONF=$DIR/etc/slurm.conf" >"$DIR/env.sh"
. "$DIR/env.sh"
printf 'NODES=%s net=%s bridge=%s\n' "$NODES" "$net" "$bridge" >"$DIR/run/cluster.vars"

(umask 077; dd if=/dev/urandom of="$DIR/munge/key" bs=128 count=1 status=none)
munged --key-file="$DIR/munge/key" --socket="$DIR/munge/munge.socket" --num-threads=2 \
  --pid-file="$DIR/run/munged.pid" --log-file="$DIR/munge/munged.log" --seed-file="$DIR/munge/seed"

ip link add "$bridge" type bridge
ip addr add "$net.1/24" dev "$bridge"
ip link set "$bridge" up
slurmctld -c </dev/null >"$DIR/log/slurmctld.out" 2>&1
for i in $(seq 1 "$NODES"); do
  "$here/node.sh" start "node$i"
done
for _ in $(seq 1 150); do
  [ "$(sinfo -h -p low -t idle -o %D 2>/dev/null || echo 0)" = "$NODES" ] && exit
  sleep 0.2
done
sinfo
exit 1
