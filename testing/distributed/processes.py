"""What Linux offers to keep a tree of processes from outliving its root."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)

# These two unlink what shared memory their owner left behind, once it is gone. They end by themselves.
_CLEANERS = (b"multiprocessing.resource_tracker", b"torch_shm_manager")


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}, {value}): {os.strerror(code)}")


def die_with_parent(parent: int, signum: int) -> None:
    """Ask the kernel for ``signum`` when the process ``parent`` that started this one ends."""
    _prctl(_PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent:  # it ended before the request
        os.kill(os.getpid(), signum)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends (``PR_SET_CHILD_SUBREAPER``)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def thread_names() -> list[str]:
    """Names of this process's threads as the kernel sees them, native ones included."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            names.append((task / "comm").read_text().strip())
    return names


def process_start(pid: int | None = None) -> float:
    """Time in seconds since the epoch at which a process, by default this one, was started."""
    ticks = int(_stat_fields(str(pid or os.getpid()))[19])
    since_boot = ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)


def state_of(pid: int) -> str:
    """Say what the kernel tells of a process: running, stopped, waiting for a device..."""
    try:
        letter = _stat_fields(str(pid))[0]
    except OSError:
        return "gone"
    names = {"R": "running", "S": "asleep", "D": "stuck in the kernel", "T": "stopped", "t": "traced", "Z": "a zombie"}
    return f"{names.get(letter, 'in an odd state')} ({letter})"


def has_ended(pid: int) -> bool:
    """Whether a process is gone or, a zombie, only waits for its parent to read its status."""
    try:
        return _stat_fields(str(pid))[0] == "Z"
    except OSError:  # also ESRCH: the process went between the opening of its file and the reading
        return True


def descendants(root: int) -> list[int]:
    """Ids of all processes below ``root`` that have not exited."""
    children: dict[int, list[int]] = {}
    exited: set[int] = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                state, parent = _stat_fields(entry)[:2]
                children.setdefault(int(parent), []).append(int(entry))
                if state == "Z":  # its other threads, and so its children, may still be there
                    exited.add(int(entry))
    found: list[int] = []
    queue = [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return [pid for pid in found if pid not in exited]


def kill_descendants(patience: float = 5.0) -> list[int]:
    """Kill every process below this one, which must adopt orphans, and reap them.

    Processes that unlink abandoned shared memory get the first half of ``patience`` seconds to do so.

    Returns:
        Ids that are still there after ``patience`` seconds (stuck in the kernel), normally none.
    """
    start = time.monotonic()
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:  # orphans are adopted, so without children there are no descendants
            return []
        left = descendants(os.getpid())
        waited = time.monotonic() - start
        if waited > patience:
            return left
        for pid in left:
            if waited > patience / 2 or not _is_cleaner(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


def _is_cleaner(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return any(name in command for name in _CLEANERS)


def _stat_fields(pid: str) -> list[str]:
    """Fields of ``/proc/PID/stat`` from the third (state) on; the second may itself hold spaces."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
