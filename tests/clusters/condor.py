"""A personal HTCondor pool on loopback: Debian 13's own packages in a root of their own, seen by nobody else.

Everything lies below one folder, the root of a private mount namespace: access point, worker, user, runs. What the
pool does not have of its own (this Python, its packages, this checkout) is bound into it read-only under ``/opt``.
Jobs are moved by HTCondor's file transfer alone, as on the OSPool.
"""

import os
import shutil
import signal
import site
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

USER = "lens"
HOME = f"/home/{USER}"
PORT = 29618
PACKAGES = (
    *("htcondor", "squashfuse"),
    *("libffi8", "libsqlite3-0", "libbz2-1.0", "liblzma5", "libreadline8t64", "libgomp1", "libstdc++6"),
)
SUITE, UNSTABLE = "trixie", "sid"
CONFIG = f"""
CONDOR_HOST = 127.0.0.1
COLLECTOR_HOST = 127.0.0.1:{PORT}
SHARED_PORT_PORT = {PORT}
NETWORK_INTERFACE = 127.0.0.1
BIND_ALL_INTERFACES = False
ENABLE_IPV6 = False
NO_DNS = True
DEFAULT_DOMAIN_NAME = pool.test
UID_DOMAIN = pool.test
FILESYSTEM_DOMAIN = pool.test
TRUST_UID_DOMAIN = True
DAEMON_LIST = MASTER, COLLECTOR, NEGOTIATOR, SCHEDD, STARTD
ALLOW_WRITE = *
ALLOW_DAEMON = *
ALLOW_NEGOTIATOR = *
NUM_CPUS = 4
MEMORY = 8192
SLOT_TYPE_1 = 100%
SLOT_TYPE_1_PARTITIONABLE = TRUE
NUM_SLOTS_TYPE_1 = 1
BASE_CGROUP =
START = TRUE
SUSPEND = FALSE
PREEMPT = FALSE
KILL = FALSE
RUNBENCHMARKS = False
# Seconds where a real pool takes minutes.
NEGOTIATOR_INTERVAL = 2
NEGOTIATOR_MIN_INTERVAL = 1
NEGOTIATOR_CYCLE_DELAY = 1
SCHEDD_INTERVAL = 2
SCHEDD_MIN_INTERVAL = 1
UPDATE_INTERVAL = 5
POLLING_INTERVAL = 1
SHADOW_QUEUE_UPDATE_INTERVAL = 2
STARTER_UPDATE_INTERVAL = 2
STARTER_INITIAL_UPDATE_INTERVAL = 1
PERIODIC_EXPR_INTERVAL = 2
DAGMAN_USER_LOG_SCAN_INTERVAL = 1
DAGMAN_SUBMIT_DELAY = 0
# An image of ours that shows that Apptainer works; the packages bring none.
HasSIF = True
HasSandboxImage = True
STARTD_ATTRS = $(STARTD_ATTRS) HasSIF HasSandboxImage
"""
# The mounts live in a namespace of the pool and go with it. pivot_root and not chroot: in a chroot the kernel refuses
# the namespaces that HTCondor's starter and Apptainer make.
ENTER = """set -e
root=$1; shift
mount --make-rprivate /
mount --bind "$root" "$root"
for place in proc sys dev; do mount --rbind /$place "$root/$place"; done
while [ "$1" != -- ]; do mount --bind -o ro "$1" "$root$2"; mount -o remount,bind,ro "$root$2"; shift 2; done; shift
[ -e "$root/opt/fuse" ] || { mknod "$root/opt/fuse" c 10 229 && chmod 666 "$root/opt/fuse"; }
[ ! -e "$root/dev/fuse" ] || mount --bind "$root/opt/fuse" "$root/dev/fuse"
mkdir -p "$root/old"; cd "$root"; pivot_root . old; cd /; umount -l /old
exec "$@"
"""


class CannotInstall(Exception):
    """What of it there is none of here, in a sentence."""


class Pool:
    """Call it with a command to run that as the pool's user on its access point."""

    def __init__(self, root):
        self.root, self.master = Path(root), None

    @property
    def inode(self):
        """Of the root, by which the pool's processes are known."""
        return self.root.stat().st_ino

    @property
    def home(self):
        """The user's home, seen from outside."""
        return self.root / HOME[1:]

    def install(self):
        """Debian and HTCondor below the root, unless they are there; `CannotInstall` says what is in the way."""
        if os.geteuid() != 0:
            raise CannotInstall("HTCondor's root needs debootstrap, and that a root user")
        if not (self.root / "usr/bin/apt-get").exists():
            if shutil.which("debootstrap") is None:
                quietly("apt-get", "install", "-y", "-qq", "--no-install-recommends", "debootstrap")
            quietly("debootstrap", "--variant=minbase", SUITE, str(self.root), mirror())
        for name in ("hosts", "resolv.conf", "hostname"):
            shutil.copy(Path("/etc") / name, self.root / "etc" / name)
        for path in Path("/etc/apt/apt.conf.d").glob("99*"):
            shutil.copy(path, self.root / "etc/apt/apt.conf.d")
        nothing_starts = self.root / "usr/sbin/policy-rc.d"
        nothing_starts.write_text("#!/bin/sh\nexit 101\n")
        nothing_starts.chmod(0o755)
        if not (self.root / "usr/sbin/condor_master").exists():
            quietly("chroot", str(self.root), "apt-get", "update", "-qq")
            quietly("chroot", str(self.root), "apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES)
        if not self.home.exists():
            quietly("chroot", str(self.root), "useradd", "-m", "-u", "1234", USER)

    def install_apptainer(self):
        """Apptainer, which of Debian's suites the unstable one alone has; `CannotInstall` as above."""
        if (self.root / "usr/bin/apptainer").exists():
            return
        lists = self.root / "opt/unstable"
        (lists / "lists/partial").mkdir(parents=True, exist_ok=True)
        (lists / "sources.list").write_text(f"deb {mirror()} {UNSTABLE} main\n")
        apart = ("-o", "Dir::Etc::sourcelist=/opt/unstable/sources.list", "-o", "Dir::Etc::sourceparts=-")
        apart += ("-o", "Dir::State::lists=/opt/unstable/lists")
        inside = ("chroot", str(self.root), "sh", "-c", 'cd /opt/unstable && exec "$@"', "sh")
        quietly(*inside, "apt-get", *apart, "update", "-qq")
        quietly(*inside, "apt-get", *apart, "download", "-qq", "apptainer")
        (package,) = lists.glob("apptainer_*.deb")
        quietly(*inside, "apt-get", "install", "-y", "-qq", "--no-install-recommends", f"./{package.name}")
        # The worker looks for it when it starts, and dpkg made the linker's cache without the Python bound in there.
        if self.master is not None:
            self.stop()
            self.start()

    def start(self):
        """Its daemons, and in ``/opt/lenspipe/bin/lenspipe`` this checkout's command."""
        owned = ("run/condor", "run/lock/condor", "var/log/condor", "var/spool/condor", "var/lib/condor/execute")
        for name in owned:
            (self.root / name).mkdir(parents=True, exist_ok=True)
        quietly("chroot", str(self.root), "chown", "condor:condor", *(f"/{name}" for name in owned))
        (self.root / "etc/condor/passwords.d").mkdir(mode=0o700, exist_ok=True)
        (self.root / "etc/condor/config.d/50-pool.config").write_text(CONFIG)
        binds = self._lenspipe()
        with (self.root / "var/log/condor/master.out").open("w") as said:
            self.master = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", "-c", ENTER, "sh", self.root, *binds, "--"]
                + ["sh", "-c", "ldconfig && exec condor_master -f"],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        end = time.monotonic() + 60
        while not self("condor_status", "-af", "Name", check=False).stdout.strip():
            if time.monotonic() > end or self.master.poll() is not None:
                raise AssertionError(f"no pool: {(self.root / 'var/log/condor/master.out').read_text()}")
            time.sleep(0.2)

    def stop(self):
        """The daemons, by the pid of their master; the mounts go with the namespace."""
        if self.master is None:
            return
        self.master.send_signal(signal.SIGQUIT)  # fast: it takes its daemons along
        try:
            self.master.wait(30)
        except subprocess.TimeoutExpired:
            self.master.kill()
            self.master.wait()
        self.master = None

    def __call__(self, *argv, check=True, **more):
        """Run a command on the access point, in the pool's namespace."""
        done = subprocess.run(self._inside(*argv, **more), capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise AssertionError(f"{argv}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def begin(self, *argv, **more):
        """Start a command there; what it says is nobody's."""
        null = subprocess.DEVNULL
        return subprocess.Popen(self._inside(*argv, **more), stdin=null, stdout=null, stderr=null)

    def _inside(self, *argv, user=USER, cwd=HOME):
        home = "/root" if user == "root" else f"/home/{user}"
        names = {
            "HOME": home,
            "USER": user,
            "LOGNAME": user,
            "LC_ALL": "C.UTF-8",
            "PATH": "/opt/lenspipe/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        }
        return [
            *("nsenter", f"--mount=/proc/{self.master.pid}/ns/mnt", f"--wdns={cwd}", "--"),
            *("runuser", "-u", user, "--", "env", "-i", *(f"{name}={value}" for name, value in names.items())),
            *map(str, argv),
        ]

    def processes(self, words):
        """Pids of lenspipe's processes in the pool whose command lines hold `words`."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                text, root = path.read_text().replace("\0", " "), (path.parent / "root").stat()
            except OSError:
                continue
            if text.startswith("/opt/lenspipe/env/bin/python") and words in text and root.st_ino == self.inode:
                found.append(int(path.parent.name))
        return found

    def sandbox(self, pid):
        """The folder in which a job's process works, seen from outside."""
        try:
            return self.root / "var/lib/condor/execute" / Path(os.readlink(f"/proc/{pid}/cwd")).name
        except OSError:
            return None

    def listens(self, pid):
        """True if a process listens on any port."""
        sockets = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
        for name in ("tcp", "tcp6"):
            for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
                state, inode = line.split()[3], line.split()[9]
                if state == "0A" and f"socket:[{inode}]" in sockets:
                    return True
        return False

    def _lenspipe(self):
        """Pairs of folders here and in the root: a Python of this kind there, with these packages and this checkout."""
        top = self.root / "opt/lenspipe"
        packages = [path for path in (*site.getsitepackages(), *sys.path) if Path(path, "numpy").is_dir()]
        sources = {
            "python": sys.base_prefix,
            "packages": packages[0],
            "checkout": str(Path(__file__).parents[2]),
        }
        for name in sources:
            (top / name).mkdir(parents=True, exist_ok=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        packages = top / f"env/lib/{version}/site-packages"
        for folder in (top / "bin", top / "env/bin", packages, self.root / "etc/ld.so.conf.d"):
            folder.mkdir(parents=True, exist_ok=True)
        # A virtual environment by hand: its packages are elsewhere.
        (top / "env/pyvenv.cfg").write_text("home = /opt/lenspipe/python/bin\n")
        (packages / "lenspipe.pth").write_text("/opt/lenspipe/checkout\n/opt/lenspipe/packages\n")
        (self.root / "etc/ld.so.conf.d/python.conf").write_text("/opt/lenspipe/python/lib\n")
        with suppress(FileExistsError):
            (top / "env/bin/python").symlink_to(f"/opt/lenspipe/python/bin/{version}")
        command = top / "bin/lenspipe"
        command.write_text('#!/bin/sh\nexec /opt/lenspipe/env/bin/python -m lenspipe "$@"\n')
        command.chmod(0o755)
        for name in ("interchange.py", "process_worker_pool.py"):  # Parsl starts them by name
            _, _, text = (Path(sys.executable).parent / name).read_text().partition("\n")
            script = top / "env/bin" / name
            script.write_text(f"#!/opt/lenspipe/env/bin/python\n{text}")
            script.chmod(0o755)
        return [text for name, source in sources.items() for text in (source, f"/opt/lenspipe/{name}")]


def mirror():
    """The mirror that this machine itself uses."""
    for path in sorted(Path("/etc/apt").glob("sources.list*")) + sorted(Path("/etc/apt/sources.list.d").glob("*")):
        for line in path.read_text().splitlines() if path.is_file() else ():
            words = line.split()
            if words[:1] == ["URIs:"]:
                return words[1]
            if words[:1] == ["deb"]:
                return next(word for word in words[1:] if "://" in word)
    raise CannotInstall("no Debian mirror is named in /etc/apt, so nothing can be installed")


def quietly(*argv):
    """Run an installer; `CannotInstall` has its last words."""
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        )
    except FileNotFoundError as error:
        raise CannotInstall(f"cannot be installed: there is no {error.filename}") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise CannotInstall(f"cannot be installed: {' '.join(map(str, argv[:3]))}: {' '.join(said)}")
