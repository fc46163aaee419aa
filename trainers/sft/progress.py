"""How far a training has come."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Progress:
    """Counters over all ranks, since the very beginning.

    Attributes:
        step: optimizer steps.
        epoch: passes over the data that are complete.
        samples: samples seen.
        tokens: their tokens.
        loss_tokens: those of them that carry loss.
        best_validation_loss: the least so far.
        seconds: time spent training, the runs before this one included.
    """

    step: int = 0
    epoch: int = 0
    samples: int = 0
    tokens: int = 0
    loss_tokens: int = 0
    best_validation_loss: float = float("inf")
    seconds: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the counters by name."""
        return asdict(self)


def passed(interval: int | None, before: int, now: int) -> bool:
    """Whether a multiple of an interval lies in ``(before, now]``; None has no multiples."""
    return interval is not None and now // interval > before // interval
