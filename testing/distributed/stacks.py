"""Reads what faulthandler wrote about a rank."""

from __future__ import annotations

import linecache
import re
from dataclasses import dataclass
from pathlib import Path

_HARNESS = Path(__file__).parent
_THREAD = re.compile(r"^(Current thread|Thread) 0x[0-9a-f]+.*\(most recent call first\):$")
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)$')

# Decorators between a collective and its caller.
_WRAPPERS = ("wrapper", "_fn", "inner", "decorate_context")


@dataclass(frozen=True)
class Frame:
    """One call: source file, line and function name."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        """Return the frame as a traceback shows it."""
        source = linecache.getline(self.file, self.line).strip()
        return f'  File "{self.file}", line {self.line}, in {self.function}' + (f"\n    {source}" if source else "")

    @property
    def is_harness(self) -> bool:
        """Whether the frame is this package's own (its tests are not)."""
        path = Path(self.file)
        return path.parent == _HARNESS and not path.name.endswith("_test.py")


def read_threads(text: str) -> list[list[Frame]]:
    """Return the stacks of the last dump in ``text``, innermost frame first, the main thread's before others."""
    threads: list[list[Frame]] = []
    for line in text.splitlines():
        if _THREAD.match(line):
            threads.append([])
        elif threads and (match := _FRAME.match(line)):
            threads[-1].append(Frame(match["file"], int(match["line"]), match["function"]))
    main = [_above_harness(thread) for thread in threads if _runs(thread, "run_rank")]
    others = [thread for thread in threads if not _runs(thread, "run_rank") and not _runs(thread, "_answer")]
    return main[-1:] + others


def show(threads: list[list[Frame]]) -> str:
    """Return the stacks as text, innermost call last."""
    texts = []
    for number, frames in enumerate(threads):
        title = [] if number == 0 else ["another thread:"]
        texts.append("\n".join(title + [str(frame) for frame in reversed(frames)]))
    return "\n".join(texts)


def collective_of(frames: list[Frame]) -> str | None:
    """Return the function of ``torch.distributed`` in which a stack stands, by the name that the caller used."""
    name = None
    for frame in frames:
        if "/torch/distributed/" in frame.file:
            if frame.function not in _WRAPPERS:
                name = frame.function
        elif name is not None:
            break
    return name


def _runs(frames: list[Frame], function: str) -> bool:
    return any(frame.is_harness and frame.function == function for frame in frames)


def _above_harness(frames: list[Frame]) -> list[Frame]:
    """Drop this package's frames and what is below them; a rank that stands in the harness keeps its own."""
    for depth, frame in enumerate(frames):
        if frame.is_harness:
            return frames[:depth] or frames[: depth + 1]
    return frames
