"""What a check reports: where, what, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

FIX = "./bazelw run //tools:fix"


@dataclass(frozen=True, order=True)
class DepEdit:
    """One entry of `deps` to add to, or remove from, the target `name` of a BUILD file."""

    build_file: str
    name: str
    label: str
    add: bool


@dataclass(frozen=True, order=True)
class Finding:
    """One fault of one file.

    Attributes:
      path: file, relative to the root of the repo, with `/`.
      line: line in the file, from 1; 0 when the whole file is meant.
      message: what is wrong, naming the value.
      mend: the command to run or the line to write.
      edit: the change to a BUILD file that removes the fault, where one exists.
    """

    path: str
    line: int
    message: str
    mend: str
    edit: DepEdit | None = None

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else self.path
        return f"{place}: {self.message}\n    mend: {self.mend}"


def report(findings: Iterable[Finding]) -> str:
    """The text a test fails with: every finding in order of place, then how to apply the mends at once.

    Returns:
      An empty string when there are no findings.
    """
    found = sorted(findings)
    if not found:
        return ""
    lines = [str(finding) for finding in found]
    lines.append(f"{len(found)} finding(s); `{FIX}` applies what can be applied")
    return "\n".join(lines)
