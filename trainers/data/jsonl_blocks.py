"""Works through the lines of a large file in blocks, on several processes, in the order of the file."""

import logging
import multiprocessing
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_args

OnBadLine = Literal["error", "skip"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_log = logging.getLogger(__name__)

_LOGGED = 10
_BUFFER_BYTES = 1 << 20  # (many lines are longer than Python's default)


@dataclass(frozen=True)
class FileBlock:
    """The lines of a file that begin in bytes [start, end)."""

    path: Path
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes of the block."""
        return self.end - self.start

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield where each line begins in the file, and the line with its line break."""
        with self.path.open("rb", _BUFFER_BYTES) as file:
            if self.start:
                file.seek(self.start - 1)
                file.readline()  # the end of a line of the block before
            offset = file.tell()
            while offset < self.end and (line := file.readline()):
                yield offset, line
                offset += len(line)


def blocks_of(path: Path, block_bytes: int) -> list[FileBlock]:
    """Cut a file into blocks.

    Raises:
        OSError: if the file is not there.
    """
    size = path.stat().st_size
    return [FileBlock(path, start, min(start + block_bytes, size)) for start in range(0, size, block_bytes)]


def map_in_processes(
    function: Callable[[_Item], _Result], items: Sequence[_Item], num_processes: int
) -> Generator[_Result, None, None]:
    """Yield ``function(item)`` in the order of the items; closing the iterator ends the processes.

    Args:
        function: at the top level of a module; does not see what this process did before.
        items: picklable.
        num_processes: processes that share the work; 1 is this process.

    Raises:
        ValueError: if ``num_processes`` is below 1.
        concurrent.futures.process.BrokenProcessPool: if a process dies.
    """
    if num_processes < 1:
        raise ValueError(f"num_processes must be an integer >= 1, got {num_processes}")
    num_processes = min(num_processes, len(items))
    if num_processes <= 1:
        yield from map(function, items)
        return
    # A server forks them: this process may hold threads and a GPU, which do not survive a fork.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__])
    executor = ProcessPoolExecutor(num_processes, context)
    try:
        yield from executor.map(function, items)
    finally:
        executor.shutdown(cancel_futures=True)


class BadLines:
    """Refuses or counts bad lines, and knows their numbers.

    Args:
        path: the file, for messages.
        on_bad_line: ``error`` raises at the first one; ``skip`` counts them and logs the first ten.

    Raises:
        ValueError: if ``on_bad_line`` is neither.
    """

    def __init__(self, path: Path, on_bad_line: OnBadLine) -> None:
        if on_bad_line not in get_args(OnBadLine):
            raise ValueError(f"on_bad_line={on_bad_line!r} is unknown: choose one of {', '.join(get_args(OnBadLine))}")
        self._path = path
        self._on_bad_line = on_bad_line
        self._num_lines = 0
        self.num_skipped = 0

    def add(self, num_lines: int, bad_lines: Sequence[tuple[int, str]]) -> None:
        """Take the next block: its number of lines, and the numbers of bad ones among them with what is wrong.

        Raises:
            ValueError: if there is a bad line and ``on_bad_line`` is ``error``; names file and line.
        """
        for number, reason in bad_lines:
            place = f"{self._path}:{self._num_lines + number}"
            if self._on_bad_line == "error":
                raise ValueError(f"{place}: {reason} (on_bad_line='skip' leaves such lines out)")
            self.num_skipped += 1
            if self.num_skipped <= _LOGGED:
                _log.warning("left out %s: %s", place, reason)
        self._num_lines += num_lines

    def close(self) -> None:
        """Log how many lines were skipped, if any."""
        if self.num_skipped:
            _log.warning("left out %d bad lines of %s", self.num_skipped, self._path)
