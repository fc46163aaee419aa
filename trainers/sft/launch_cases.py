"""What the ranks of `launch_test` do: nothing that needs torch, so that they start at once."""

import os
import signal
import time
from pathlib import Path
from types import FrameType


def statuses(*of_ranks: int) -> int:
    """Return this rank's status."""
    return of_ranks[int(os.environ["RANK"])]


def write_environment(folder: Path) -> int:
    """Write what torch reads of a rank's place among the others."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    (folder / os.environ["RANK"]).write_text(" ".join(os.environ[name] for name in names))
    return 0


def heeds(number: int) -> int:
    """Return whether a signal does anything to this rank."""
    return int(signal.getsignal(number) is not signal.SIG_IGN)


def kill_rank_1(folder: Path) -> int:
    """Rank 1 is killed once rank 0 waits for ever."""
    if os.environ["RANK"] == "0":
        _say(folder, os.getpid())
    while os.environ["RANK"] == "0" or not (folder / "0").exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def wait_for_signal(folder: Path) -> int:
    """Return 75 after a signal, and note how often it came; rank 1 returns before rank 0 does."""
    came = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    signal.signal(signal.SIGINT, note)
    _say(folder, os.getpid())
    while not came:
        time.sleep(0.01)
    time.sleep(0.5 if os.environ["RANK"] == "0" else 0.2)  # (for a second one)
    _say(folder, came)
    return 75


def _say(folder: Path, what: object) -> None:
    path = folder / os.environ["RANK"]
    path.with_suffix(".tmp").write_text(repr(what))
    path.with_suffix(".tmp").rename(path)
