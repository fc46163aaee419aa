"""The part of a cluster on one host, brought up by its own command: for tests."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tools.remote import trial
from tools.remote.fleet.hosts import Host
from tools.remote.settings import Settings


class Part:
    """See the module.

    Attributes:
      host: where it is.
      home: its folder, which all hosts see.
      command: words that start `cluster` there.
    """

    def __init__(self, host: Host) -> None:
        """A part that is down."""
        self.host, self.home = host, Path(tempfile.mkdtemp(prefix="ty-part-"))
        # (the programs are in the user's cache, which a test is not told)
        cache = trial.engine().python.parents[3]
        self.command = (*host.within, "env", f"XDG_CACHE_HOME={cache}", trial.program())

    def run(self, command: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of `cluster` to its end, whatever it is."""
        full = [*self.command, command, f"--home={self.home}", *words]
        return subprocess.run(full, capture_output=True, text=True, check=False)

    def up(self, wanted: Settings) -> None:
        """Brings it up as wanted."""
        (self.home / "cluster.json").write_text(wanted.model_dump_json())
        result = self.run("up")
        assert result.returncode == 0, result.stderr

    def status(self) -> dict[str, Any]:
        """What `status` says."""
        found: dict[str, Any] = json.loads(self.run("status", "--output=json").stdout)
        return found

    def state(self, worker: str) -> str:
        """The state of a worker; "" where nobody knows it."""
        return next((each["state"] for each in self.status()["workers"] if each["name"] == worker), "")

    def remove(self) -> None:
        """Takes it down, and its folder away."""
        self.run("down")
        shutil.rmtree(self.home, ignore_errors=True)
