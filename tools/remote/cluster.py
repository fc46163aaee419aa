"""A cluster of workers on this machine: brings it up, changes it, says how it is, takes it down."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.remote import buildgrid_config, credentials, programs, settings, web
from tools.remote.engine import Engine, provide
from tools.remote.fleet import joining
from tools.remote.places import Places
from tools.remote.pools import POOLS, Worker
from tools.remote.programs import MARK, Program
from tools.remote.settings import Settings
from tools.remote.supervisor import Supervisor, SupervisorError

_START_SECONDS = 90
_STOP_SECONDS = 30


class ClusterError(Exception):
    """The cluster does not do what was asked; the message says what to do."""


class Cluster:
    """The cluster at `places`.

    Attributes:
      places: where it keeps what it writes.
    """

    def __init__(
        self, places: Places, say: Callable[[str], None] = lambda _: None, provide: Callable[[], Engine] = provide
    ) -> None:
        """See the class.

        Args:
          places: where it keeps what it writes.
          say: told what takes time, and what is repaired.
          provide: gives the programs.
        """
        self.places = places
        self._say = say
        self._provide = provide

    def settings(self) -> Settings:
        """What it was asked to be.

        Raises:
          ClusterError: it was never brought up.
        """
        found = settings.load(self.places.settings)
        if found is None:
            raise ClusterError(f"no cluster in {self.places.home}: bring one up first (`up --pool cpu=2`)")
        return found

    def up(self, wanted: Settings) -> None:
        """Makes it be as wanted: starts what is missing, ends what is too much.

        Raises:
          ClusterError: a part does not start.
          SetupError: a program cannot be fetched.
          ValueError: its folder has too long a name.
        """
        self.places.make()
        self._repair()
        self.write(wanted)
        if self._supervisor() is None:
            if not wanted.scheduler:
                self._check_ports(wanted)
            self._start_supervisor()
        else:
            self._apply()
        if not wanted.scheduler:
            self._wait(wanted)

    def add_worker(self, pool: str, devices: tuple[int, ...]) -> Worker:
        """Adds a worker and starts it.

        Raises:
          ClusterError: the cluster is not up.
          ValueError: no such pool, or a device that another worker owns.
        """
        wanted = self.settings().with_worker(pool, devices)
        known = {each.name for each in self.settings().all_workers()}
        self._require_up()
        self.up(wanted)
        (added,) = (each for each in wanted.all_workers() if each.name not in known)
        return added

    def drain(self, name: str) -> None:
        """Lets a worker finish what it runs, then takes it out.

        Raises:
          ClusterError: the cluster is not up.
          ValueError: there is no such worker.
        """
        wanted = self.settings().without_worker(name)
        self._require_up()
        # (a worker that is told to end finishes its action first)
        self._ask("supervisor.signalProcess", f"worker-{name}", "TERM")
        self.up(wanted)

    def down(self) -> None:
        """Ends all of it; what it knows and its settings stay."""
        pid = self._supervisor()
        if pid is not None:
            self._ask("supervisor.shutdown")
            deadline = time.monotonic() + _STOP_SECONDS
            while _runs(pid) and time.monotonic() < deadline:
                time.sleep(0.05)
        self._end_marked()
        subprocess.run(["/bin/sh", "-c", programs.unmount(self._provide(), self.places)], check=False)

    def processes(self) -> list[dict[str, Any]]:
        """What the supervisor says of each process; [] where the cluster is down."""
        if self._supervisor() is None:
            return []
        found: list[dict[str, Any]] = self._ask("supervisor.getAllProcessInfo")
        return found

    def log(self, name: str) -> Path:
        """The log of a process.

        Raises:
          ValueError: there is no such process.
        """
        names = sorted(file.stem for file in self.places.log.glob("*.log"))
        if name not in names:
            raise ValueError(f"no log of {name!r}: there are {', '.join(names) or 'none'}")
        return self.places.log / f"{name}.log"

    def write(self, wanted: Settings) -> list[Program]:
        """Writes all that its processes read, and starts none; returns them.

        Raises:
          SetupError: a program cannot be fetched.
        """
        found = self._provide()
        as_root = os.geteuid() == 0
        # (in a container root may be without it)
        fuse = os.access("/dev/fuse", os.R_OK | os.W_OK) if as_root else _is_setuid(shutil.which("fusermount3"))
        if wanted.scheduler:
            parts = self._joined(found, wanted, fuse=fuse)
        else:
            parts = self._own(found, wanted, as_root=as_root, fuse=fuse)
        run = self.places.run
        config = buildgrid_config.render(self.places, POOLS, wanted)
        files = {f"{each.name}.sh": each.script for each in parts}
        files |= {
            "bin/bwrap": programs.bubblewrap(found),
            "acl.yml": buildgrid_config.access(credentials.WORKER, credentials.CLIENT),
            "buildgrid.yml": config,
            "run_action.sh": programs.run_action(found),
            "serve.py": (Path(__file__).with_name("serve.py.txt")).read_text(),
            "supervisor.conf": programs.supervisor_config(self.places, parts),
        }
        (run / "bin").mkdir(exist_ok=True)
        for name, text in files.items():
            (run / name).write_text(text)
        for name in ("run_action.sh", "bin/bwrap"):
            (run / name).chmod(0o755)
        web.ship(run / "code")
        self.places.settings.write_text(wanted.model_dump_json(indent=1) + "\n")
        return parts

    def _own(self, found: Engine, wanted: Settings, *, as_root: bool, fuse: bool) -> list[Program]:
        """The programs of a cluster with a scheduler of its own."""
        parts = [
            programs.web(found, self.places, wanted.web_port),
            programs.postgres(found, self.places, as_root=as_root),
            programs.casd(found, self.places, wanted.quota, fuse=fuse),
            programs.scheduler(found, self.places, wanted.abandon_seconds),
        ]
        url = wanted.url.replace("grpc", "http")
        told: list[str] = []
        if wanted.secure:
            credentials.make(self.places.tls, [wanted.host])
            told = credentials.worker_options(self.places.tls, "bots")
        often = wanted.silence_seconds // 6
        workers = [
            programs.worker(found, self.places, each, url, told, word_seconds=often) for each in wanted.all_workers()
        ]
        return [*parts, *workers]

    def _joined(self, found: Engine, wanted: Settings, *, fuse: bool) -> list[Program]:
        """Those where the scheduler is on another host: workers, and a store of blobs before that one's."""
        url, host = joining.url(wanted.scheduler), socket.gethostname()
        to_store, to_bots = (
            credentials.worker_options(Path(wanted.credentials), service) if wanted.credentials else []
            for service in ("cas", "bots")
        )
        store = [f"--cas-remote={url}", *to_store]
        return [
            programs.casd(found, self.places, wanted.quota, fuse=fuse, upstream=store),
            *(programs.worker(found, self.places, each, url, to_bots, host) for each in wanted.all_workers()),
        ]

    def _start_supervisor(self) -> None:
        found = self._provide()
        command = [str(found.bin / "supervisord"), "--configuration", str(self.places.run / "supervisor.conf")]
        environ = {**os.environ, MARK: str(self.places.home), "PATH": f"{os.environ.get('PATH', '')}:{found.buildbox}"}
        # (Bazel's `run` names files that will be gone)
        environ = {key: value for key, value in environ.items() if not key.startswith(("BUILD_", "RUNFILES", "PYTHON"))}
        result = subprocess.run(command, cwd="/", env=environ, capture_output=True, text=True, check=False)
        if result.returncode:
            raise ClusterError(f"supervisord does not start: {result.stderr or result.stdout}")

    def _apply(self) -> None:
        """Ends programs that are gone or changed, starts those that are new or changed."""
        ((added, changed, removed),) = self._ask("supervisor.reloadConfig")
        for name in (*removed, *changed):
            self._ask("supervisor.stopProcessGroup", name)
            self._ask("supervisor.removeProcessGroup", name)
        for name in (*added, *changed):
            self._ask("supervisor.addProcessGroup", name)

    def _wait(self, wanted: Settings) -> None:
        """Waits until the scheduler answers."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex((wanted.host, wanted.port)) == 0:
                    return
            if time.monotonic() > deadline:
                tail = "\n".join(self.log("scheduler").read_text(errors="replace").splitlines()[-8:])
                raise ClusterError(f"the scheduler does not answer after {_START_SECONDS} s. Its log ends:\n{tail}")
            time.sleep(0.1)

    def _check_ports(self, wanted: Settings) -> None:
        for host, port in ((wanted.host, wanted.port), (web.HOST, wanted.web_port)):
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex((host, port)) == 0:
                    raise ClusterError(f"port {port} of {host} is taken by another program: --port names others")

    def _repair(self) -> None:
        """Ends what a supervisor that was killed has left."""
        if self._supervisor() is None:
            ended = self._end_marked()
            if ended:
                self._say(f"repaired: the supervisor was gone; ended {ended} processes that it left")

    def _require_up(self) -> None:
        if self._supervisor() is None:
            raise ClusterError(f"the cluster in {self.places.home} is down: bring it up first (`up`)")

    def _supervisor(self) -> int | None:
        """The supervisor's process, if it runs."""
        try:
            pid = int((self.places.run / "supervisor.pid").read_text())
        except (OSError, ValueError):
            return None
        return pid if _runs(pid) and _is_marked(pid, self.places.home) else None

    def _end_marked(self) -> int:
        """Ends all processes of the cluster; returns how many there were."""
        ended: set[int] = set()
        deadline = time.monotonic() + _STOP_SECONDS
        while pids := [pid for pid in _all_processes() if pid != os.getpid() and _is_marked(pid, self.places.home)]:
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                ended.add(pid)
            if time.monotonic() > deadline:
                raise ClusterError(f"processes {pids} of the cluster do not end")
            time.sleep(0.05)
        return len(ended)

    def _ask(self, method: str, *arguments: Any) -> Any:
        try:
            return Supervisor(self.places.supervisor_socket).ask(method, *arguments)
        except SupervisorError as error:
            raise ClusterError(str(error)) from error


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _all_processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def _is_marked(pid: int, home: Path) -> bool:
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return f"{MARK}={home}".encode() in environ.split(b"\0")


def _is_setuid(program: str | None) -> bool:
    return program is not None and bool(os.stat(program).st_mode & 0o4000)
