"""A cluster, and a workspace of shell tests to send to it: for tests of both."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.bazel import host_bazel
from tools.remote.cluster import Cluster
from tools.remote.engine import Engine, load
from tools.remote.places import Places
from tools.remote.settings import Settings
from tools.remote.status import Status, read

_RULE = """\
def _impl(ctx):
    program = ctx.actions.declare_file(ctx.label.name + ".sh")
    ctx.actions.write(program, "#!/bin/sh\\n" + ctx.attr.script, is_executable = True)
    return [DefaultInfo(executable = program, runfiles = ctx.runfiles(files = ctx.files.data))]

shell_test = rule(
    implementation = _impl,
    attrs = {"data": attr.label_list(allow_files = True), "script": attr.string()},
    test = True,
)
"""


# The end of a script that reports for itself: else Bazel has a second action make the report.
REPORT = 'echo "<testsuites/>" > "$XML_OUTPUT_FILE"\n'


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a `bazel test` did.

    Attributes:
      status: its exit status.
      tests: label to what the build events say of it.
      said: standard error.
      logs: the folder of what the tests printed.
    """

    status: int
    tests: Mapping[str, Mapping[str, Any]]
    said: str
    logs: Path

    def log(self, name: str) -> str:
        """What a test printed."""
        return (self.logs / name / "test.log").read_text()


class Workspace:
    """Shell tests, each a script with execution properties."""

    def __init__(
        self,
        root: Path,
        tests: Mapping[str, tuple[str, Mapping[str, str]]],
        *,
        data: Sequence[str] = (),
        within: Sequence[str] = (),
    ) -> None:
        """Writes it.

        Args:
          root: an empty folder; the one beside it with the suffix .output becomes Bazel's.
          tests: name to its script and its `exec_properties`.
          data: files that each of them reads.
          within: words before each command, such as those that enter a namespace.
        """
        self.root, self._within = root, within
        self.output = root.with_name(root.name + ".output")
        host_bazel.make_workspace(root)
        (root / "MODULE.bazel").touch()
        (root / "rule.bzl").write_text(_RULE)
        rules = ['load(":rule.bzl", "shell_test")\n']
        for name, (script, properties) in tests.items():
            size = 'size = "small", timeout = "moderate"'
            files = f"data = {json.dumps(list(data))}"
            values = f"script = {json.dumps(script)}, exec_properties = {json.dumps(dict(properties))}, {files}, {size}"
            rules.append(f'shell_test(name = "{name}", {values})\n')
        (self.root / "BUILD.bazel").write_text("\n".join(rules))

    def test(self, wanted: Settings, *arguments: str, targets: Sequence[str] = ("//...",)) -> Outcome:
        """Runs tests remotely."""
        process = self.start(wanted, *arguments, targets=targets)
        _, said = process.communicate()
        return self.outcome(process.returncode, said)

    def outcome(self, status: int, said: str) -> Outcome:
        """What the last run did, when it has ended."""
        tests: dict[str, Any] = {}
        for line in self._events.read_text().splitlines():
            event = json.loads(line)
            label = event["id"].get("testResult", {}).get("label")
            if label and "testResult" in event:
                tests[label.removeprefix("//:")] = event["testResult"]
        return Outcome(status, tests, said, self.root / "bazel-testlogs")

    def start(self, wanted: Settings, *arguments: str, targets: Sequence[str] = ("//...",)) -> subprocess.Popen[str]:
        """The same, without waiting for it."""
        options = [
            f"--remote_executor={wanted.url}",
            "--remote_default_exec_properties=Pool=cpu",
            "--spawn_strategy=remote",
            "--strategy=TestRunner=remote",
            "--remote_local_fallback=false",
            "--remote_max_connections=1",
            "--remote_retries=20",
            "--grpc_keepalive_time=10s",
            "--noshow_progress",
            "--color=no",
            "--curses=no",
            "--keep_going",
            f"--build_event_json_file={self._events}",
        ]
        return subprocess.Popen(
            [*self._command, "test", *targets, *options, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def forget(self) -> None:
        """Removes all results that Bazel has on this machine."""
        subprocess.run([*self._command, "clean"], cwd=self.root, capture_output=True, check=True)

    def close(self) -> None:
        """Ends the Bazel server, whatever it waits for."""
        try:
            subprocess.run([*self._command, "shutdown"], capture_output=True, timeout=20, check=False)
        except subprocess.TimeoutExpired:
            for pid in processes_with(str(self.output)):
                os.kill(pid, signal.SIGKILL)

    @property
    def _command(self) -> tuple[str, ...]:
        return (
            *self._within,
            "env",
            f"--chdir={self.root}",
            *host_bazel.short_lived_command(),
            f"--output_base={self.output}",
        )

    @property
    def _events(self) -> Path:
        return self.root.with_name(self.root.name + ".events")


def engine() -> Engine:
    """The programs, which the repository @remote_engine fetched."""
    (found,) = Path(os.environ["TEST_SRCDIR"]).glob("*remote_engine/engine.json")
    return load(found)


def program() -> str:
    """The command `cluster`, for targets with //tools/remote:cluster among their data."""
    return f"{os.environ['TEST_SRCDIR']}/{os.environ['TEST_WORKSPACE']}/tools/remote/cluster"


def cluster(name: str) -> tuple[Cluster, Settings]:
    """A cluster of no workers in a new folder, on a port that is free, as is the next one."""
    home = Path(tempfile.mkdtemp(prefix=f"ty-{name}-"))
    return Cluster(Places(home), provide=engine), Settings(port=free_port())


@contextlib.contextmanager
def running(name: str, workers: Sequence[tuple[str, tuple[int, ...]]], **changed: Any) -> Iterator[Cluster]:
    """A cluster that is up, with all its workers, and gone afterwards.

    Args:
      name: for its folder.
      workers: pool and devices of each.
      changed: other settings than the usual ones.
    """
    made, wanted = cluster(name)
    wanted = wanted.model_copy(update=changed)
    for pool, devices in workers:
        wanted = wanted.with_worker(pool, devices)
    try:
        made.up(wanted)
        wait_for(lambda: {each.state for each in status(made).workers} <= {"idle"}, 60)
        yield made
    finally:
        made.down()
        shutil.rmtree(made.places.home)


def status(cluster: Cluster) -> Status:
    """How a cluster is."""
    return read(cluster.places, engine().postgres / "psql")


def wait_for(condition: Callable[[], Any], seconds: float) -> Any:
    """What the condition gives as soon as it is true.

    Raises:
      AssertionError: it is not, so long.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"in vain for {seconds} s: {inspect.getsource(condition).strip()}"
        time.sleep(0.1)
    return found


def pid_of(cluster: Cluster, name: str) -> int:
    """The process of a part of a cluster; 0 where it does not run."""
    return next(each["pid"] for each in cluster.processes() if each["name"] == name)


@contextlib.contextmanager
def mark() -> Iterator[Path]:
    """A file that is not there yet, for an action to make: the whole machine sees it, from each sandbox."""
    file = Path("/dev/shm") / f"ty-{uuid.uuid4().hex}"
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)


def processes_with(text: str) -> list[int]:
    """All processes of the machine in whose command line a text stands."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if text.encode() in line.read_bytes() and int(line.parent.name) != os.getpid():
                found.append(int(line.parent.name))
    return found


def free_port() -> int:
    """A port of loopback that nobody listens on, as nobody does on the next one."""
    while True:
        with socket.socket() as probe, socket.socket() as next_one:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                next_one.bind(("127.0.0.1", port + 1))
                return port
