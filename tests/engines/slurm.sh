#!/usr/bin/env bash
# A Slurm of one node, this machine, for the tests. As root on Debian or Ubuntu:
#
#   tests/engines/slurm.sh start    install what is missing, start the daemons, wait until the node is idle;
#                                   prints the line that lets this shell's commands find them: export SLURM_CONF=...
#   tests/engines/slurm.sh stop     end them; jobs that are left are cancelled
#
# Everything but the packages and munge's socket lives in one folder ($RLSCALE_SLURM, else /tmp/rlscale-slurm), with
# ports of its own, so that a Slurm that the machine belongs to is neither read nor changed.
set -euo pipefail

here=${RLSCALE_SLURM:-/tmp/rlscale-slurm}
export SLURM_CONF=$here/slurm.conf PATH=$PATH:/usr/sbin

fail() {
  echo "slurm.sh: $1" >&2
  exit 1
}

install_packages() {
  command -v slurmctld slurmd sbatch munged >/dev/null && return
  command -v apt-get >/dev/null || fail "slurm-wlm and munge are not installed, and there is no apt-get to do it"
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update && apt-get install -y --no-install-recommends slurm-wlm munge; } >"$here/apt.log" 2>&1 ||
    fail "slurm-wlm and munge cannot be installed; see $here/apt.log"
}

write_conf() {
  local node found cpus memory
  node=$(hostname -s)
  found=$(slurmd -C)
  cpus=$(grep -o 'CPUs=[0-9]*' <<<"$found")
  memory=$(grep -o 'RealMemory=[0-9]*' <<<"$found")
  # cred_expire: a requeued job waits for so many seconds (120 by default, 5 at least); sched_interval: and until a look at it.
  cat >"$SLURM_CONF" <<EOF
ClusterName=rlscale
SlurmctldHost=$node(127.0.0.1)
AuthType=auth/munge
AuthInfo=cred_expire=5
SlurmUser=root
SlurmdUser=root
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$here/state
SlurmdSpoolDir=$here/spool
SlurmctldPidFile=$here/slurmctld.pid
SlurmdPidFile=$here/slurmd.pid
SlurmctldLogFile=$here/slurmctld.log
SlurmdLogFile=$here/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2
MpiDefault=none
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName=$node NodeAddr=127.0.0.1 $cpus $memory State=UNKNOWN
PartitionName=all Nodes=$node Default=YES MaxTime=INFINITE State=UP
EOF
}

start() {
  [ "$(id -u)" = 0 ] || fail "only root can start Slurm's daemons"
  mkdir -p "$here"/{state,spool}
  install_packages
  write_conf
  if ! munge -n >/dev/null 2>&1; then
    install -d -o munge -g munge -m 755 /run/munge
    runuser -u munge -- munged --pid-file /run/munge/rlscale.pid || fail "munged does not start"
  fi
  slurmctld -c # forget the jobs of an earlier start
  slurmd
  for _ in $(seq 60); do
    if [ "$(sinfo -h -o %t 2>/dev/null)" = idle ]; then
      echo "export SLURM_CONF=$SLURM_CONF"
      return
    fi
    sleep 0.5
  done
  fail "the node is not idle after 30 s; see $here/slurmctld.log and $here/slurmd.log"
}

# Ends the process that a pid file names, if it runs.
end() {
  local pid
  pid=$(cat "$1" 2>/dev/null) && kill "$pid" 2>/dev/null || return 0
  for _ in $(seq 100); do
    kill -0 "$pid" 2>/dev/null || return 0
    sleep 0.1
  done
}

stop() {
  local left
  left=$(timeout 5 squeue -h -o %A 2>/dev/null || true)
  [ -z "$left" ] || timeout 20 scancel $left || true # numbers, one to a word
  for _ in $(seq 100); do
    [ -n "$(timeout 5 squeue -h 2>/dev/null)" ] || break
    sleep 0.1
  done
  end "$here/slurmd.pid"
  end "$here/slurmctld.pid"
  end /run/munge/rlscale.pid
}

case ${1:-} in
  start) start ;;
  stop) stop ;;
  *) fail "say start or stop" ;;
esac
