#!/usr/bin/env bash
# A real Slurm of one node on loopback, with two pretended GPUs: cluster.sh start|stop FOLDER
# For tests, as root in a container or on a machine of one's own: it writes /etc/slurm, opens no
# port beyond loopback, and `stop` takes all of it away.
set -euo pipefail
root=$(realpath -m "$2")

stop() {
    for file in "$root/slurmd.pid" "$root/slurmctld.pid" /run/munge/munged.pid; do
        [ -f "$file" ] && kill "$(cat "$file")" 2>/dev/null || true
    done
    # with these there, every call of the engine waits for a controller that is not
    rm -f /etc/slurm/slurm.conf /etc/slurm/gres.conf
}

start() {
    mkdir -p "$root"/{state,spool,log} /etc/slurm
    # daemons that the packages would start at once: there is no systemd, or they lack a setting
    command -v slurmctld munged >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install \
        -y -qq --no-install-recommends slurm-wlm munge >"$root/log/apt.log" 2>&1
    cat >/etc/slurm/slurm.conf <<CONF
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$root/state
SlurmdSpoolDir=$root/spool
SlurmctldPidFile=$root/slurmctld.pid
SlurmdPidFile=$root/slurmd.pid
SlurmctldLogFile=$root/log/slurmctld.log
SlurmdLogFile=$root/log/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
MinJobAge=600
KillWait=2
NodeName=localhost NodeHostname=$(hostname) NodeAddr=127.0.0.1 CPUs=4 RealMemory=16000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE State=UP
CONF
    echo "NodeName=localhost Name=gpu File=/dev/null,/dev/zero" >/etc/slurm/gres.conf
    install -d -o munge -g munge -m 755 /run/munge
    munge -n >/dev/null 2>&1 || su -s /bin/sh munge -c /usr/sbin/munged
    /usr/sbin/slurmctld -c
    sleep 0.5
    /usr/sbin/slurmd -N localhost
    for _ in $(seq 300); do
        [ "$(sinfo -h -o %T 2>/dev/null)" = idle ] && exit 0
        sleep 0.1
    done
    echo "the node is not idle after 30 s: see $root/log" >&2
    exit 1
}

"$1"
