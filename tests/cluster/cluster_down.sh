#!/bin/bash
# End what cluster_up.sh started, by process id. The logs in $DIR stay.
DIR=${DIR:?the folder given to cluster_up.sh}
. "$DIR/run/cluster.vars"
. "$DIR/env.sh"
for node in "$DIR"/run/node*.pid; do # the init of a node: all its processes end with it
  [ -f "$node" ] && kill -9 "$(cat "$node")"
done
for daemon in slurmctld munged; do
  [ -f "$DIR/run/$daemon.pid" ] && kill "$(cat "$DIR/run/$daemon.pid")"
done
for _ in $(seq 1 50); do
  [ -e "$DIR/run/slurmctld.pid" ] || break
  sleep 0.1
done
for i in $(seq 1 "$NODES"); do
  ip link del "anyscene$i" 2>/dev/null
  ip netns del "anyscene-node$i" 2>/dev/null
done
ip link del "$bridge" 2>/dev/null
umount --lazy "$DIR/small"
rm -rf "$DIR/run"
