"""A real Slurm on this machine: emulated nodes with fake GPUs, accounts in MariaDB, all on loopback, no systemd."""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.backends.processes import until

PACKAGES = ("slurm-wlm", "munge", "libpmix2")  # the last before slurmd starts, or its steps hang
ACCOUNTING = ("slurmdbd", "mariadb-server")
ACCOUNT = "m0000"

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A job that is requeued waits for its old credentials to expire.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
TmpFS={folder}/tmp/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=pmi2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0,sched_max_job_start=0,requeue_delay=1
PriorityType=priority/basic
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
SwitchType=switch/none
JobRequeue=1
ReturnToService=2
KillWait=2
MinJobAge=600
SlurmctldTimeout=10
SlurmdTimeout=10
GresTypes=gpu
NodeName={names} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports} CPUs={cpus} Boards=1 SocketsPerBoard=1 \
CoresPerSocket={cpus} ThreadsPerCore=1 RealMemory={memory} Gres=gpu:a100:{gpus} Feature=gpu,cpu State=UNKNOWN
PartitionName=regular Nodes={names} Default=YES MaxTime=1:00:00 DefaultTime=5 State=UP
"""

WITH_ACCOUNTS = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge.socket
AccountingStorageEnforce=associations,qos,limits
AccountingStorageTRES=gres/gpu
"""

DBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
CommunicationParameters=NoInAddrAny
"""


def installed(packages, commands):
    """Whether `commands` are there, after an attempt to install `packages` where they are not."""
    if all(map(shutil.which, commands)):
        return True
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    if subprocess.run(install, env=environment, **quiet).returncode:
        subprocess.run(["apt-get", "update", "-qq"], env=environment, **quiet)
        subprocess.run(install, env=environment, **quiet)
    return all(map(shutil.which, commands))


def free_ports(number):
    """First of `number` TCP ports in a row that nobody listens on."""
    for first in range(26800, 32000, number):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + number):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise AssertionError("no free ports")


class Slurm:
    """A cluster of `nodes` nodes in `folder`."""

    def __init__(self, folder, nodes=4, cpus=4, gpus=4):
        self.folder, self.nodes, self.cpus, self.gpus = folder, nodes, cpus, gpus
        self.names = [f"n{i}" for i in range(1, nodes + 1)]
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))},
            "SLURM_CONF": str(folder / "slurm.conf"),
        }
        self.accounts = False

    # -- from nothing to idle nodes -----------------------------------------------------------------------------

    def start(self):
        folder, host = self.folder, socket.gethostname().split(".")[0]
        for name in ("state", "dev", "key", *(f"{what}/{n}" for what in ("spool", "tmp") for n in self.names)):
            (folder / name).mkdir(parents=True)
        first = free_ports(self.nodes + 2)
        self._munge()
        self.accounts = installed(ACCOUNTING, ("slurmdbd", "mariadbd"))
        names, ports = f"n[1-{self.nodes}]", f"[{first + 2}-{first + 1 + self.nodes}]"
        conf = CONF.format(
            folder=folder, host=host, port=first, names=names, ports=ports, cpus=self.cpus, gpus=self.gpus, memory=8000
        )
        if self.accounts:
            conf += WITH_ACCOUNTS.format(folder=folder, port=first + 1)
        (folder / "slurm.conf").write_text(conf)
        for i in range(self.gpus):
            subprocess.run(["mknod", folder / f"dev/nvidia{i}", "c", "1", "3"], check=True)
        devices = folder / f"dev/nvidia[0-{self.gpus - 1}]"
        (folder / "gres.conf").write_text(f"NodeName={names} Name=gpu Type=a100 File={devices}\n")
        if self.accounts:
            self._database(host, first + 1)
        self._daemon("slurmctld", "-f", folder / "slurm.conf")
        for name in self.names:
            self.start_node(name)
        until(lambda: set(self.states().values()) == {"idle"})
        return self

    def start_node(self, name):
        self._daemon("slurmd", "-N", name, "-f", self.folder / "slurm.conf")

    def states(self):
        """Node -> state."""
        with contextlib.suppress(subprocess.CalledProcessError):
            return dict(line.split() for line in self("sinfo", "-h", "-N", "-o", "%N %T").splitlines())
        return {}

    def _daemon(self, *argv):
        subprocess.run(argv, env=self.environment, check=True, stdin=subprocess.DEVNULL, timeout=60)

    def _munge(self):
        key = self.folder / "key/key"
        key.write_bytes(os.urandom(1024))
        for path, mode in ((self.folder, 0o755), (key.parent, 0o700), (key, 0o600)):
            path.chmod(mode)
        places = {name: f"--{name}-file={self.folder}/munged.{name}" for name in ("pid", "log", "seed")}
        self._daemon("munged", "--force", f"--key-file={key}", f"--socket={self.folder}/munge.socket", *places.values())

    def _database(self, host, port):
        data, socket_path = self.folder / "db", self.folder / "db.socket"
        user = ["--no-defaults", f"--user={getpass.getuser()}", f"--datadir={data}"]
        argv = ["mariadb-install-db", *user, "--auth-root-authentication-method=socket", "--skip-test-db"]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        quick = ["--skip-networking", "--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0"]
        places = [f"--socket={socket_path}", f"--pid-file={self.folder}/mariadb.pid"]
        with (self.folder / "mariadb.log").open("w") as log:
            subprocess.Popen(["mariadbd", *user, *quick, *places], stdout=log, stderr=log, start_new_session=True)
        ask = ["mariadb", "--no-defaults", "-S", str(socket_path), "-u", "root", "-e"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        until(lambda: subprocess.run([*ask, "create database slurm_acct_db"], **quiet).returncode == 0)
        conf = self.folder / "slurmdbd.conf"
        conf.write_text(DBD_CONF.format(folder=self.folder, host=host, port=port))
        conf.chmod(0o600)
        argv = ["slurmdbd"]
        subprocess.run(argv, env={**self.environment, "MYSQL_UNIX_PORT": str(socket_path)}, check=True, timeout=60)
        add = ["sacctmgr", "-i", "-Q", "add"]
        until(lambda: subprocess.run([*add, "cluster", "test"], env=self.environment, **quiet).returncode == 0)
        self(*add, "qos", "regular,debug")
        self(*add, "account", ACCOUNT, "cluster=test")
        # root has a default account of its own, which wins over a new one
        user = [f"account={ACCOUNT}", "qos=regular,debug", "defaultqos=regular"]
        self(*add, "user", getpass.getuser(), *user)
        who = ["user", getpass.getuser(), "where", "cluster=test", "set", f"defaultaccount={ACCOUNT}"]
        self("sacctmgr", "-i", "-Q", "modify", *who)

    # -- use ----------------------------------------------------------------------------------------------------

    def __call__(self, *argv, text=None):
        """What a command prints."""
        done = subprocess.run(
            [str(word) for word in argv],
            env=self.environment,
            check=True,
            input=text,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.stdout

    def jobs(self):
        """Job id -> (name, state, nodes) of those waiting or running."""
        lines = self("squeue", "-h", "-o", "%i|%j|%T|%N").splitlines()
        return {line.split("|")[0]: tuple(line.split("|")[1:]) for line in lines}

    def kill_node(self, name):
        """Kill a node's slurmd, and let Slurm know at once; what the node started goes on, as on a real one."""
        os.kill(int((self.folder / f"slurmd.{name}.pid").read_text()), signal.SIGKILL)
        self("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=killed")

    # -- the end ------------------------------------------------------------------------------------------------

    def stop(self):
        """End every daemon that was started, and every job."""
        with contextlib.suppress(subprocess.CalledProcessError, subprocess.TimeoutExpired):
            self("scancel", f"--user={getpass.getuser()}")
            until(lambda: not self.jobs(), 20)
        order = [*(f"slurmd.{n}" for n in self.names), "slurmctld", "slurmdbd", "mariadb", "munged"]
        for name in order:
            end(self.folder / f"{name}.pid")


def end(path):
    """End the process whose number stands in `path`, kindly if it will."""
    try:
        pid = int(path.read_text())
    except (FileNotFoundError, ValueError):
        return
    for number, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 5)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        last = time.monotonic() + patience
        while time.monotonic() < last:
            if not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                return
            time.sleep(0.1)
