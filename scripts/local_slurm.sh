#!/usr/bin/env bash
# Run a real Slurm cluster on this machine, for the tests and for trying the launchers:
#
#   eval "$(scripts/local_slurm.sh start [DIR])"   DIR: /tmp/pcam-slurm
#   eval "$(scripts/local_slurm.sh env [DIR])"     in another shell
#   scripts/local_slurm.sh stop [DIR]
#
# It has two partitions, named as on Snellius: gpu_course (two nodes, one pretended GPU each) and
# thin_course (two nodes, the default). CPUs are not enforced. The script needs root,
# installs Debian packages if needed, listens on loopback only, on five TCP ports from
# PCAM_SLURM_PORT (17817), and writes marked lines into /etc/hosts, which `stop` removes. Exit code
# 77: this machine cannot run Slurm.
set -euo pipefail
umask 022
export PATH=$PATH:/usr/sbin:/sbin

action=${1:-} dir=$(realpath -m "${2:-/tmp/pcam-slurm}")
conf=$dir/slurm.conf socket=$dir/munge.socket mark="# local_slurm.sh $dir."
nodes=(gpu1 gpu2 thin1 thin2) policy=/usr/sbin/policy-rc.d

die() { echo "local_slurm: $2" >&2; exit "$1"; }
clean() { env -i PATH="$PATH" SLURM_CONF="$conf" "$@"; } # without the variables of a surrounding job

# Compare the command line, too: another process may have the number in an old pid file.
running() {
  local pid
  pid=$(cat "$dir/run/$1.pid" 2>/dev/null) && grep -qsF "$dir/" "/proc/$pid/cmdline"
}

wait_for() { # SECONDS COMMAND...
  local deadline=$((SECONDS + $1))
  until "${@:2}"; do [ $SECONDS -lt $deadline ] || return 1; sleep 0.2; done
}
daemon() { # NAME COMMAND...
  running "$1" || clean "${@:2}" >>"$dir/log/$1.out" 2>&1 </dev/null 9>&- \
    || die 1 "$1 did not start, see $dir/log"
}

no_jobs() { [ -z "$(clean squeue -h 2>/dev/null)" ]; }
nodes_up() {
  [ "$(clean sinfo -hN -o %T 2>/dev/null | grep -cxE 'idle|mixed|allocated|completing')" = 4 ]
}
listeners() { # hexadecimal ADDRESS:PORT of each listener on the five ports
  local ports
  ports=$(printf '%04X|' $(seq "$port" $((port + 4))))
  awk '$4 == "0A" { print $2 }' /proc/net/tcp* | grep -E ":(${ports%|})$"
}

install_packages() {
  [ "$(type -P slurmctld slurmd sbatch munged | wc -l)" -lt 4 ] || return 0
  command -v apt-get >/dev/null || die 77 "no Slurm here, and no apt-get to install it with"
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120)
  if [ ! -e "$policy" ]; then # keeps the packages from starting daemons
    trap 'rm "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"
  fi
  "${apt[@]}" update >&2 || die 77 "apt-get cannot update its lists"
  "${apt[@]}" install -y --no-install-recommends slurm-wlm munge >&2 \
    || die 77 "apt-get cannot install slurm-wlm and munge"
}

# Slurm binds to what the host name resolves to; torch.distributed looks nodes up by name.
# The file is written in place, since in a container it is a mount, which cannot be replaced.
write_hosts() {
  local text
  ! grep -qF "$mark" /etc/hosts || return 0
  text=$(cat /etc/hosts && echo "127.0.0.1 ${nodes[*]} $mark")
  [[ $(getent ahostsv4 "$(hostname)") == 127.* ]] || text="127.0.0.1 $(hostname) $mark"$'\n'$text
  echo "$text" >/etc/hosts
}
remove_hosts() {
  local text
  text=$(grep -vF "$mark" /etc/hosts) || true
  echo "$text" >/etc/hosts
}

write_conf() {
  (umask 077 && head -c 1024 /dev/urandom >"$dir/munge.key")
  cat >"$conf" <<CONF
ClusterName=local
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$port
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
# A requeued job waits for cred_expire, by default 120 s
AuthInfo=socket=$socket,cred_expire=10
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/%n.log
# Neither cgroups nor systemd; the CPUs and memory below need not exist
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=1700
SchedulerParameters=batch_sched_delay=0,sched_min_interval=200000,bf_interval=5,sched_interval=5
# Without accounting, scontrol reports a job for an hour after its end
MinJobAge=3600
KillWait=5
# Without cgroups: jobs that use more memory than they asked for are found every 2 s, and killed
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
GresTypes=gpu
NodeName=gpu[1-2] Port=$((port + 1))-$((port + 2)) CPUs=18 RealMemory=32000 Gres=gpu:1
NodeName=thin[1-2] Port=$((port + 3))-$((port + 4)) CPUs=16 RealMemory=32000
PartitionName=gpu_course Nodes=gpu[1-2] DefaultTime=60 MaxTime=1-00:00:00
PartitionName=thin_course Nodes=thin[1-2] DefaultTime=60 MaxTime=1-00:00:00 Default=YES
CONF
  printf 'AutoDetect=off\nNodeName=gpu[1-2] Name=gpu File=/dev/null\n' >"$dir/gres.conf"
}

start() {
  [ "$(id -u)" = 0 ] || die 77 "starting Slurm needs root"
  mkdir -p "$dir"/{log,run,spool,state}
  exec 9>"$dir/lock" && flock 9 # against another start or stop
  install_packages
  if running slurmctld; then
    port=$(sed -n 's/^SlurmctldPort=//p' "$conf")
  else
    port=${PCAM_SLURM_PORT:-17817}
    [ -z "$(listeners)" ] || die 1 "a port from $port to $((port + 4)) is in use; set PCAM_SLURM_PORT to another"
    write_conf
  fi
  write_hosts
  # --force: the parent folder may be private; only root needs the socket
  daemon munged munged --force --key-file="$dir/munge.key" --socket="$socket" \
    --seed-file="$dir/munge.seed" --pid-file="$dir/run/munged.pid" --log-file="$dir/log/munged.log"
  daemon slurmctld slurmctld -f "$conf"
  for name in "${nodes[@]}"; do daemon "$name" slurmd -f "$conf" -N "$name"; done
  wait_for 60 nodes_up || die 1 "the nodes did not come up, see $dir/log"
  ! listeners | grep -v '7F:' >&2 || { stop; die 1 "Slurm listened beyond loopback and was stopped"; }
  echo "export SLURM_CONF=$conf"
}

stop() {
  exec 9>"$dir/lock" && flock 9
  if running slurmctld; then # first the jobs, which would outlive the daemons
    clean squeue -ho %A | sort -u | xargs -r env SLURM_CONF="$conf" scancel || true
    wait_for 30 no_jobs || true
  fi
  for name in "${nodes[@]}" slurmctld munged; do
    ! running "$name" || kill "$(cat "$dir/run/$name.pid")"
    wait_for 15 eval "! running $name" || kill -KILL "$(cat "$dir/run/$name.pid")"
  done
  remove_hosts
}

case $action in
  start) start ;;
  stop) [ ! -d "$dir" ] || stop ;;
  env) echo "export SLURM_CONF=$conf" ;;
  *) die 2 "usage: $0 start|stop|env [DIR]" ;;
esac
