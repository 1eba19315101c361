"""Starts a temporary Slurm: real slurmctld, slurmd and munged in one folder, on their own ports, as root or not.

All nodes are this machine under addresses 127.0.0.11, 127.0.0.12, ... which are also their names, so that
`scontrol show hostnames` gives what resolves anywhere. Their GPUs are empty files: Slurm schedules them, nothing more.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "sinfo", "squeue", "scancel")
WAIT = 240.0
"""Seconds until the tests give up on a state: a loaded machine is slow, not broken."""
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "DEADLINE", "OUT_OF_MEMORY")

CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmctldDebug=verbose
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SlurmdParameters=config_overrides
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1,sbatch_wait_nodes=0,requeue_setup_env_fail
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=10
MinJobAge=600
SlurmdTimeout=10
MessageTimeout=30
TCPTimeout=5
JobRequeue=1
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60 PreemptMode=REQUEUE
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


class SlurmCluster:
    """The cluster in `folder` (short path, empty). Use as a context manager; it is idle when the block begins.

    Raises:
        RuntimeError: a daemon died or the nodes did not become idle; with the end of the logs.
    """

    def __init__(self, folder: Path, num_nodes: int = 3, gpus_per_node: int = 8) -> None:
        self.folder = folder
        self.nodes = [f"127.0.0.{11 + number}" for number in range(num_nodes)]
        self._gpus = gpus_per_node
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._revivals = 0
        # Only what a login shell has: variables of the test run must not decide how a job behaves.
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR", "USER", "LOGNAME") if name in os.environ}
        self.environment = {**kept, "PATH": _search_path(), "SLURM_CONF": str(folder / "slurm.conf")}

    @staticmethod
    def missing() -> list[str]:
        """The programs that are not installed."""
        return [tool for tool in TOOLS if shutil.which(tool, path=_search_path()) is None]

    @staticmethod
    def version() -> str:
        """The installed Slurm's version."""
        program = shutil.which("slurmctld", path=_search_path()) or "slurmctld"
        return subprocess.run([program, "-V"], capture_output=True, text=True, check=True).stdout.split()[-1]

    def __enter__(self) -> SlurmCluster:
        self._write_configuration()
        # Ends what is left if the tests themselves are killed: it notices when this end of the pipe closes.
        self._reaper = subprocess.Popen(
            [sys.executable, __file__, self.environment["SLURM_CONF"]], stdin=subprocess.PIPE, start_new_session=True
        )
        try:
            names = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munge.pid", "log-file": "munge.log"}
            munge = [f"--{option}={self.folder / name}" for option, name in {**names, "seed-file": "munge.seed"}.items()]
            self._start("munged", ["munged", "--foreground", "--force", "--num-threads=10", *munge])
            self.wait(lambda: (self.folder / "munge.sock").exists(), "munged to listen")
            self._start("slurmctld", ["slurmctld", "-D", "-i"])
            for node in self.nodes:
                self.start_node(node)
            self.wait_idle()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel all jobs, stop the daemons, and kill whatever processes of this cluster are left."""
        if "slurmctld" in self._daemons:
            with contextlib.suppress(subprocess.SubprocessError):
                self.run("scancel", "--user", getpass.getuser(), "--signal=KILL", "--full", timeout=10)
        self._stop([name for name in self._daemons if name in self.nodes])
        self._stop(["slurmctld"])
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._stop(["munged"])
        assert self._reaper.stdin is not None
        self._reaper.stdin.close()
        self._reaper.wait()

    def run(self, *command: str, timeout: float = WAIT, check: bool = True, **environment: str) -> str:
        """Standard output of one of Slurm's commands, stripped; `RuntimeError` with its errors if it fails."""
        done = self.call(*command, timeout=timeout, **environment)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout.strip()

    def call(
        self, *command: str, timeout: float = WAIT, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as a user of this cluster."""
        variables = {**self.environment, **environment}
        return subprocess.run(command, env=variables, cwd=cwd, capture_output=True, text=True, timeout=timeout)

    def job(self, number: str | int) -> dict[str, str]:
        """Fields of `scontrol show job` by name."""
        text = self.run("scontrol", "-o", "show", "job", str(number)).splitlines()[0]
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def nodes_of(self, number: str | int) -> list[str]:
        """The nodes that a running job has, in Slurm's order."""
        return self.run("scontrol", "show", "hostnames", self.job(number)["NodeList"]).split()

    def wait_for_end(self, number: str | int, seconds: float = WAIT) -> str:
        """Wait until the job has ended for good; its state."""
        self.wait(lambda: self.job(number)["JobState"] in ENDED, f"job {number} to end", seconds)
        return self.job(number)["JobState"]

    def wait_idle(self) -> None:
        """Wait until every node can take a job."""
        states = lambda: self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%T", check=False).split()  # noqa: E731
        self.wait(lambda: states() == ["idle"] * len(self.nodes), "idle nodes")

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = WAIT) -> None:
        """Poll until `condition()`; RuntimeError naming `what`, with the ends of the logs, after `seconds`."""
        deadline = time.monotonic() + seconds
        while not condition():
            dead = [name for name, daemon in self._daemons.items() if daemon.poll() is not None and not self._revived(name)]
            if dead or time.monotonic() > deadline:
                raise RuntimeError(f"waiting for {what}; ended daemons: {dead or 'none'}\n{self._logs()}")
            time.sleep(0.1)

    def _revived(self, name: str) -> bool:
        """Start a slurmd again, as a service manager would: it gives up where munge is slow to answer it on a loaded machine."""
        self._revivals += 1
        if name not in self.nodes or self._revivals > 10:
            return False
        self.start_node(name)
        return True

    def start_node(self, node: str) -> None:
        """Start the slurmd of `node`."""
        self._start(node, ["slurmd", "-D", "-N", node])

    def kill_node(self, node: str) -> None:
        """Let `node` fail as by a power cut: its slurmd, its step daemons and every process of its jobs are killed at once."""
        daemon = self._daemons.pop(node)
        victims = {process for process, variables in self.processes().items() if variables.get("SLURMD_NODENAME") == node}
        victims |= {parent for process in victims if _name(parent := _parent(process)) == "slurmstepd"}
        for process in (daemon.pid, *victims - {os.getpid()}):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        daemon.wait()

    def command_line(self, process: int) -> str:
        """Program and arguments of a process; empty once it has ended."""
        try:
            return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""

    def processes(self) -> dict[int, Mapping[str, str]]:
        """Processes that carry this cluster's SLURM_CONF, with their environment, but for the daemons that run."""
        daemons = {daemon.pid for daemon in self._daemons.values()}
        found = _processes_of(self.environment["SLURM_CONF"])
        return {process: variables for process, variables in found.items() if process not in daemons}

    def _write_configuration(self) -> None:
        (self.folder / "state").mkdir(parents=True)
        # All free ports are drawn before one is used, so none is drawn twice.
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(len(self.nodes) + 1)]
            for listening in sockets:
                listening.bind(("127.0.0.1", 0))
            controller, *ports = [listening.getsockname()[1] for listening in sockets]
        for node in self.nodes:
            (self.folder / "spool" / node).mkdir(parents=True)
        nodes = "\n".join(
            f"NodeName={node} NodeAddr={node} Port={port} CPUs=32 RealMemory=64000 Gres=gpu:{self._gpus} State=UNKNOWN"
            for node, port in zip(self.nodes, ports, strict=True)
        )
        text = CONFIG.format(
            host=socket.gethostname().split(".")[0], port=controller, folder=self.folder, user=getpass.getuser(), nodes=nodes
        )
        (self.folder / "slurm.conf").write_text(text)
        # Where /sys/fs/cgroup is not mounted, slurmd ends at once with its default.
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        for number in range(self._gpus):
            (self.folder / f"gpu{number}").touch()
        files = f"{self.folder}/gpu[0-{self._gpus - 1}]"
        (self.folder / "gres.conf").write_text("".join(f"NodeName={node} Name=gpu File={files}\n" for node in self.nodes))
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)

    def _start(self, name: str, command: list[str]) -> None:
        log = open(self.folder / f"{name}.out", "ab")  # noqa: SIM115 (the daemon keeps it)
        program = shutil.which(command[0], path=self.environment["PATH"]) or command[0]
        self._daemons[name] = subprocess.Popen(
            [program, *command[1:]], env=self.environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        log.close()

    def _stop(self, names: list[str]) -> None:
        daemons = [self._daemons.pop(name) for name in names if name in self._daemons]
        for daemon in daemons:
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _logs(self) -> str:
        tails = []
        for path in sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")]):
            lines = path.read_text(errors="replace").splitlines()[-6:]
            tails += [f"--- {path.name}", *lines]
        return "\n".join(tails)


def _search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _processes_of(configuration: str) -> dict[int, Mapping[str, str]]:
    return {process: variables for process, variables in _environments() if variables.get("SLURM_CONF") == configuration}


def _environments() -> Iterator[tuple[int, Mapping[str, str]]]:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            raw = (entry / "environ").read_bytes()
        except OSError:
            continue
        pairs = (item.partition("=") for item in raw.decode(errors="replace").split("\0") if "=" in item)
        yield int(entry.name), {name: value for name, _, value in pairs}


def _parent(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _name(process: int) -> str:
    try:
        return Path(f"/proc/{process}/comm").read_text().strip()
    except OSError:
        return ""


if __name__ == "__main__":
    sys.stdin.read()
    for left in _processes_of(sys.argv[1]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(left, signal.SIGKILL)
