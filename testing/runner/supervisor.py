"""Runs the tests in a child process, so that nothing they do to their process can pass for success."""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType

_SECONDS_TO_END = 5


def short_folder() -> Path:
    """Makes a private folder whose path leaves room for the 104 bytes of an AF_UNIX address.

    Bazel's TEST_TMPDIR alone is often longer; a link to it would not help, because pytest resolves links.
    """
    parent = "/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="ty-", dir=parent))


def supervise(run: Callable[[Path, Path], int], unfinished: Path | None = None) -> int:
    """Calls `run` in a child and tells its exit status.

    Args:
        run: gets a short temporary folder and the path of a file; removes that file once the last test is
            over, and returns an exit status.
        unfinished: that file; Bazel's TEST_PREMATURE_EXIT_FILE. By default one in the temporary folder.

    Returns:
        The status of `run`; 1 if the process ended before `run` returned, even with status 0; 128 + signal if
        a signal ended it. The temporary folder is gone in each case.
    """
    folder = short_folder()
    unfinished = unfinished or folder / "unfinished"
    unfinished.touch()
    child = os.fork()
    if child == 0:
        sys.exit(run(folder, unfinished))
    try:
        return _verdict(_wait(child), unfinished)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_here(run: Callable[[Path, Path], int]) -> int:
    """Calls `run` in this process, for tools that follow one process only."""
    folder = short_folder()
    unfinished = folder / "unfinished"
    unfinished.touch()
    try:
        return run(folder, unfinished)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(child: int) -> int:
    """Waits for the child; SIGTERM to this process ends it. Returns its wait status."""

    def end(signum: int, frame: FrameType | None) -> None:
        os.kill(child, signal.SIGTERM)
        signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
        signal.alarm(_SECONDS_TO_END)

    signal.signal(signal.SIGTERM, end)
    # Ctrl-C reaches the child too: it reports, this process waits for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return os.waitpid(child, 0)[1]


def _verdict(status: int, unfinished: Path) -> int:
    """The exit status for a wait status."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        print(f"the tests were ended by {signal.Signals(number).name}", file=sys.stderr)
        return 128 + number
    code = os.WEXITSTATUS(status)
    if unfinished.exists():
        print(f"the test process exited with status {code} before the last test was over", file=sys.stderr)
        return code or 1
    return code
