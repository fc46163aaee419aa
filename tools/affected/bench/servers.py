"""The Bazel servers whose output bases are below a folder: ends them, and says how much memory they took."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

_END_SECONDS = 30


def end(folder: Path) -> None:
    """Ends them.

    Raises:
      RuntimeError: one does not end.
    """
    pids = _pids(folder)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _END_SECONDS
    while alive := [pid for pid in pids if _runs(pid)]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"Bazel servers {alive} below {folder} still run {_END_SECONDS} s after SIGTERM")
        time.sleep(0.02)


def peak_mb(folder: Path) -> float:
    """The most memory that they were resident in until now, in MB."""
    return sum(peak_mb_of(pid) for pid in _pids(folder))


def peak_mb_of(pid: int) -> float:
    """The most memory that a process was resident in until now, in MB; 0 if there is no such process."""
    # (not getrusage: its maximum outlives an exec, so a child starts with its parent's)
    return int((_status(pid, "VmHWM") or "0 kB").split()[0]) / 1024


def _pids(folder: Path) -> list[int]:
    found = [int(file.read_text()) for file in folder.rglob("server/server.pid.txt")]
    return [pid for pid in found if _runs(pid)]


def _runs(pid: int) -> bool:
    return _status(pid, "State")[:1] not in ("", "Z", "X")


def _status(pid: int, field: str) -> str:
    """A field of /proc/PID/status; "" if there is no such process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(f"{field}:")), "")
