"""What the launcher knows of one rank."""

from __future__ import annotations

from dataclasses import dataclass

from testing.distributed.outcome import RankReport


@dataclass
class RankState:
    """One rank, while it runs and after.

    Attributes:
        report: what it sent when its function ended.
        code: exit code, or minus a signal; None while it runs, or if it was ended from here.
        lost: whether its supervisor died, and so the rank.
        stopped: why it was ended from here; empty if it was not.
        where: the collective it stood in then.
        stack: its Python stacks then, or when it crashed.
        output: what it printed.
    """

    report: RankReport | None = None
    code: int | None = None
    lost: bool = False
    stopped: str = ""
    where: str = ""
    stack: str = ""
    output: str = ""

    @property
    def settled(self) -> bool:
        """Whether its function has ended, one way or another."""
        return self.report is not None or self.code is not None or self.lost

    @property
    def died(self) -> bool:
        """Whether its process ended without being asked to."""
        return self.lost or (self.code is not None and (self.report is None or self.code != 0))

    @property
    def passed(self) -> bool:
        """Whether its function returned, and nothing went wrong afterwards."""
        returned = self.report is not None and self.report.outcome.kind == "passed"
        return returned and not self.stopped and not self.died
