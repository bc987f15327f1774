"""A Slurm cluster on this machine, for tests: real daemons, each host with its own namespaces.

A host has its own processes, network, name, ``/dev/shm``, ``/run`` and ``/tmp``; the file system is shared otherwise.
Hosts meet on a bridge in a network namespace of its own, so that nothing of this machine's network is touched. The head
runs slurmctld and is where jobs are submitted; ``n1``, ``n2``, ... run slurmd.

Needs root, on Debian or Ubuntu. As a program, ``python lab.py shell [HOSTS]`` gives a shell on the head.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

PACKAGES = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "munged": "munge",
    "ip": "iproute2",
    "nsenter": "util-linux",
}
ROOT = Path(__file__).resolve().parent.parent.parent
HEAD = "head"
_NET = "10.77.0"
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
_UP_S = 60.0
_OWN = ("ps", "munged", "slurmd", "slurmctld")


def prepare() -> None:
    """Install what is missing."""
    missing = [package for program, package in PACKAGES.items() if shutil.which(program, path=_path()) is None]
    if missing:
        subprocess.run(["apt-get", "update", "-q"], check=False)
        install = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing]
        subprocess.run(install, check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})


def _path() -> str:
    return f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}:{_SBIN}"


def _run(*command: object) -> None:
    subprocess.run(list(map(str, command)), check=True, timeout=_UP_S, stdout=subprocess.DEVNULL)


class Lab:
    """The cluster. As a context manager it takes down what it has set up.

    Parameters
    ----------
    hosts
        How many compute nodes.
    cpus
        Slots that each claims to have.
    slurmd_timeout_s
        After so many seconds Slurm gives a silent node up.
    """

    def __init__(self, hosts: int = 3, *, cpus: int = 4, slurmd_timeout_s: int = 30) -> None:
        self.names = tuple(f"n{number}" for number in range(1, hosts + 1))
        self.directory = Path(tempfile.mkdtemp(prefix="cluster-"))
        self._cpus = cpus
        self._timeout_s = slurmd_timeout_s
        self._prefix = f"tg{os.getpid()}"
        self._outer: dict[str, subprocess.Popen[bytes]] = {}
        self._inits: dict[str, int] = {}

    def __enter__(self) -> Lab:
        try:
            self._write_config()
            _run("ip", "netns", "add", self._netns("switch"))
            self._switch("link", "add", "br0", "type", "bridge", "forward_delay", "0")
            self._switch("link", "set", "br0", "up")
            for name in (HEAD, *self.names):
                self.boot(name)
            self.wait_for(lambda: self._idle() == len(self.names), "all hosts are idle")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take everything down."""
        for name in list(self._outer):
            self._kill(name)
        for name in (*self.names, HEAD, "switch"):
            subprocess.run(["ip", "netns", "del", self._netns(name)], stderr=subprocess.DEVNULL, check=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    # ---- hosts ----

    def boot(self, name: str) -> None:
        """Start a host, or start it again."""
        self._wire(name)
        home = self.directory / name
        home.mkdir(exist_ok=True)
        ready = home / "ready"
        ready.unlink(missing_ok=True)
        with open(home / "console.log", "ab") as console:
            self._outer[name] = subprocess.Popen(
                [
                    *("nsenter", f"--net=/run/netns/{self._netns(name)}"),
                    *("unshare", "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child"),
                    *(sys.executable, __file__, "_init", str(self.directory), name),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**os.environ, "PATH": _path()},
                start_new_session=True,
            )
        outer = self._outer[name].pid
        self.wait_for(lambda: ready.exists() or self._outer[name].poll() is not None, f"{name} is up")
        assert ready.exists(), f"{name} does not come up:\n{(home / 'console.log').read_text()}"
        children = Path(f"/proc/{outer}/task/{outer}/children").read_text(encoding="ascii").split()
        self._inits[name] = int(children[0])

    def power_off(self, name: str, *, silently: bool = True) -> None:
        """End a host at once; silently, so that no other hears of it, or such that its connections are closed."""
        if silently:
            self.cut(name)
        self._kill(name)

    def cut(self, name: str) -> None:
        """Cut a host off: it goes on, but nothing comes or goes."""
        self._switch("link", "set", f"p-{name}", "nomaster")

    def heal(self, name: str) -> None:
        """Connect a host that was cut off."""
        self._switch("link", "set", f"p-{name}", "master", "br0")

    def restore(self) -> None:
        """Bring every host up and connect it, and wait until Slurm knows."""
        for name in self.names:
            if name not in self._outer:
                self.boot(name)
            else:
                self.heal(name)
        self.wait_for(self._usable, "all hosts are idle")

    def _usable(self) -> bool:
        down = self.run(HEAD, "sinfo", "-h", "-N", "-t", "down,drain", "-o", "%N").split()
        for name in down:
            with suppress(AssertionError):
                self.run(HEAD, "scontrol", "update", f"nodename={name}", "state=resume")
        return self._idle() == len(self.names)

    def _kill(self, name: str) -> None:
        init, outer = self._inits.pop(name, None), self._outer.pop(name)
        with suppress(ProcessLookupError):
            os.kill(outer.pid if init is None else init, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            outer.wait(30)
        outer.kill()
        outer.wait()

    # ---- commands ----

    def command(self, name: str, words: Sequence[object], env: Mapping[str, str] | None = None) -> list[str]:
        """Return the command that runs another on a host, in this directory."""
        variables = {"HOSTNAME": name, "PATH": _path(), "OMP_NUM_THREADS": "1", **(env or {})}
        settings = [f"{key}={value}" for key, value in variables.items()]
        inside = ["/bin/sh", "-c", 'cd "$0"; exec "$@"', os.getcwd(), *map(str, words)]
        return ["nsenter", "-t", str(self._inits[name]), "--all", "--", "env", *settings, *inside]

    def run(self, name: str, *words: object, env: Mapping[str, str] | None = None, timeout_s: float = 60.0) -> str:
        """Run a command on a host, and return what it prints."""
        done = subprocess.run(
            self.command(name, words, env), capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, f"{words} on {name}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def submit(self, script: Path, *arguments: object, env: Mapping[str, str] | None = None) -> int:
        """Submit a batch script, and return the number of the job."""
        words = ["sbatch", "--parsable", *map(str, arguments), str(script)]
        return int(self.run(HEAD, *words, env=env).split(";")[0])

    def state(self, job: int) -> str:
        """Return the state of a job as Slurm calls it; empty when it has been forgotten."""
        text = self.run(HEAD, "scontrol", "-o", "show", "job", job)
        return text.partition("JobState=")[2].split()[0] if "JobState=" in text else ""

    def wait_for(self, true: object, what: str, limit_s: float = _UP_S) -> None:
        """Wait until a callable returns something true."""
        assert callable(true)
        deadline = time.monotonic() + limit_s
        while not true():
            assert time.monotonic() < deadline, f"not within {limit_s:.0f} s: {what}"
            time.sleep(0.1)

    def processes(self, name: str) -> dict[int, str]:
        """Return the processes on a host as it numbers them, with their command lines, without those of the lab."""
        lines = self.run(name, "ps", "-eo", "pid=,args=", "ww").splitlines()
        table = {int(pid): words for pid, words in (line.split(maxsplit=1) for line in lines)}
        return {pid: words for pid, words in table.items() if pid != 1 and Path(words.split()[0]).name not in _OWN}

    def _idle(self) -> int:
        return len(set(self.run(HEAD, "sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split()))

    # ---- wires and files ----

    def _netns(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def _switch(self, *words: str) -> None:
        _run("ip", "-n", self._netns("switch"), *words)

    def _wire(self, name: str) -> None:
        subprocess.run(["ip", "netns", "del", self._netns(name)], stderr=subprocess.DEVNULL, check=False)
        delete = ["ip", "-n", self._netns("switch"), "link", "del", f"p-{name}"]
        subprocess.run(delete, stderr=subprocess.DEVNULL, check=False)
        inside = ("ip", "-n", self._netns(name))
        _run("ip", "netns", "add", self._netns(name))
        self._switch("link", "add", f"p-{name}", "type", "veth", "peer", "name", "eth0", "netns", self._netns(name))
        self._switch("link", "set", f"p-{name}", "master", "br0", "up")
        _run(*inside, "link", "set", "lo", "up")
        _run(*inside, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
        _run(*inside, "link", "set", "eth0", "up")

    def address(self, name: str) -> str:
        """Return the address of a host."""
        return f"{_NET}.{1 if name == HEAD else 10 + int(name[1:])}"

    def _write_config(self) -> None:
        names = (HEAD, *self.names)
        hosts = "".join(f"{self.address(name)} {name}\n" for name in names)
        (self.directory / "hosts").write_text("127.0.0.1 localhost\n" + hosts)
        key = self.directory / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        (self.directory / "state").mkdir()
        (self.directory / "slurm").mkdir()
        (self.directory / "slurm" / "slurm.conf").write_text(
            _CONFIG.format(lab=self.directory, count=len(self.names), cpus=self._cpus, timeout_s=self._timeout_s)
        )


_CONFIG = """\
ClusterName=lab
SlurmctldHost=head
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=10
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
StateSaveLocation={lab}/state
SlurmdSpoolDir=/run/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile={lab}/head/slurmctld.log
SlurmdLogFile={lab}/%n/slurmd.log
SlurmctldTimeout=30
SlurmdTimeout={timeout_s}
KillWait=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SchedulerParameters=bf_interval=5,sched_interval=5,requeue_delay=0
NodeName=n[1-{count}] CPUs={cpus} RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP OverSubscribe=NO PriorityTier=10 PreemptMode=OFF
"""


def _shared_with_hosts(lab: Path) -> Iterator[Path]:
    """Yield what lies below /tmp and every host has to see."""
    for path in (lab, ROOT, Path(sys.prefix), Path(sys.base_prefix)):
        if path.is_relative_to("/tmp"):
            yield path


def _init(lab: Path, name: str) -> None:
    """Be process 1 of a host."""

    def mount(*words: object) -> None:
        _run("mount", *words)

    _run("hostname", name)
    mount("-t", "proc", "proc", "/proc")
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", "/dev/shm")
    kept = [(path, Path("/run/shared") / str(number)) for number, path in enumerate(_shared_with_hosts(lab))]
    for path, aside in kept:
        aside.mkdir(parents=True)
        mount("--rbind", path, aside)
    mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", "/tmp")
    for path, aside in kept:
        path.mkdir(parents=True, exist_ok=True)
        mount("--rbind", aside, path)
    mount("--bind", lab / "hosts", "/etc/hosts")
    Path("/etc/slurm").mkdir(exist_ok=True)
    mount("--bind", lab / "slurm", "/etc/slurm")
    for place in ("/run/munge", "/run/slurmd"):
        Path(place).mkdir()
    home = lab / name
    _run(
        *("munged", "--force", f"--key-file={lab}/munge.key", "--socket=/run/munge/munge.socket.2"),
        *("--pid-file=/run/munge/munged.pid", "--seed-file=/run/munge/seed", f"--log-file={home}/munged.log"),
    )
    os.environ["HOSTNAME"] = name
    _run(*(("slurmctld", "-i") if name == HEAD else ("slurmd", "-b")))
    (home / "ready").touch()
    while True:  # the orphans of this host are its children
        try:
            os.wait()
        except ChildProcessError:
            time.sleep(0.2)


@contextmanager
def cluster(hosts: int = 3, **options: int) -> Iterator[Lab]:
    """Install what is missing, and set a cluster up for as long as the context lasts."""
    prepare()
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with Lab(hosts, **options) as lab:
            yield lab
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> None:
    """Be process 1 of a host, or give a shell on the head of a cluster."""
    if sys.argv[1:2] == ["_init"]:
        _init(Path(sys.argv[2]), sys.argv[3])
    with cluster(int(sys.argv[2]) if len(sys.argv) > 2 else 3) as lab:
        print(f"hosts {', '.join(lab.names)}; logs in {lab.directory}", flush=True)
        subprocess.run(lab.command(HEAD, ["/bin/bash"]), check=False)


if __name__ == "__main__":
    main()
