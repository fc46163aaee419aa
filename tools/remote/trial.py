"""A cluster, and a workspace of shell tests to send to it: for tests of both."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.bazel import host_bazel
from tools.remote.cluster import Cluster
from tools.remote.engine import Engine, load
from tools.remote.places import Places
from tools.remote.settings import Settings

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


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a `bazel test` did.

    Attributes:
      status: its exit status.
      tests: label to what the build events say of it.
      said: standard error.
      root: where the logs of the tests are.
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
        self, root: Path, tests: Mapping[str, tuple[str, Mapping[str, str]]], within: Sequence[str] = ()
    ) -> None:
        """Writes it.

        Args:
          root: an empty folder.
          tests: name to its script and its `exec_properties`.
          within: words before each command, such as those that enter a namespace.
        """
        self.root, self._within = root, within
        host_bazel.make_workspace(root)
        rules = ['load(":rule.bzl", "shell_test")\n']
        for name, (script, properties) in tests.items():
            size = 'size = "small", timeout = "moderate"'
            values = f"{size}, script = {json.dumps(script)}, exec_properties = {json.dumps(dict(properties))}"
            rules.append(f'shell_test(name = "{name}", {values})\n')
        files = {"MODULE.bazel": "", "rule.bzl": _RULE, "BUILD.bazel": "\n".join(rules)}
        for name, text in files.items():
            (root / name).write_text(text)

    def test(self, wanted: Settings, *arguments: str, targets: Sequence[str] = ("//...",)) -> Outcome:
        """Runs tests remotely."""
        process = self.start(wanted, *arguments, targets=targets)
        _, said = process.communicate()
        tests: dict[str, Any] = {}
        for line in self._events.read_text().splitlines():
            event = json.loads(line)
            label = event["id"].get("testResult", {}).get("label")
            if label and "testResult" in event:
                tests[label.removeprefix("//:")] = event["testResult"]
        return Outcome(process.returncode, tests, said, self.root / "bazel-testlogs")

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

    def close(self) -> None:
        """Ends the Bazel server."""
        subprocess.run([*self._command, "shutdown"], capture_output=True, check=False)

    @property
    def _command(self) -> tuple[str, ...]:
        return (
            *self._within,
            "env",
            f"--chdir={self.root}",
            *host_bazel.short_lived_command(),
            f"--output_base={self.root.with_name(self.root.name + '.output')}",
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
    """A cluster of no workers in a new folder, on a port that is free."""
    home = Path(tempfile.mkdtemp(prefix=f"ty-{name}-"))
    return Cluster(Places(home), provide=engine), Settings(port=free_port())


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
