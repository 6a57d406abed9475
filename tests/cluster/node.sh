#!/bin/bash
# node.sh start|crash|netdown|netup nodeN: one virtual node of cluster_up.sh, in the same $DIR.
set -euo pipefail
. "$DIR/run/cluster.vars"
. "$DIR/env.sh"
action=$1 node=$2 number=${2#node} pid_file=$DIR/run/$2.pid space=anyscene-$2

case $action in
start)
  mkdir -p "$DIR/spool/$node" "$DIR/local.d/$node"
  if ! ip netns list | grep -qw "$space"; then
    ip netns add "$space"
    ip link add "anyscene$number" type veth peer name eth0 netns "$space"
    ip link set "anyscene$number" master "$bridge" up
    ip -n "$space" addr add "$net.$((10 + number))/24" dev eth0
    ip -n "$space" link set eth0 up
    ip -n "$space" link set lo up
  fi
  setsid nsenter --net="/run/netns/$space" \
    unshare --mount --uts --ipc --pid --fork --kill-child --mount-proc bash -c "
      hostname $node
      mount --bind '$DIR/etc/hosts' /etc/hosts
      mount -t tmpfs -o mode=1777,size=4g shm /dev/shm
      mount --bind '$DIR/local.d/$node' '$DIR/local'
      slurmd -D -N $node & slurmd=\$!
      trap \"kill -TERM \$slurmd\" TERM
      wait \$slurmd" </dev/null >"$DIR/log/slurmd-$node.out" 2>&1 &
  echo $! >"$pid_file"
  ;;
crash) # loss of power: every process of the node dies at once
  kill -9 "$(cat "$pid_file")"
  rm "$pid_file"
  ;;
netdown) ip link set "anyscene$number" down ;;
netup) ip link set "anyscene$number" up ;;
esac
