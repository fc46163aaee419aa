"""How long the ranks of a launch may run: the test's own limit, or what Bazel leaves of the target's."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from testing.distributed.processes import process_start


@dataclass(frozen=True)
class Deadline:
    """When ranks that are not done are stopped.

    Attributes:
        at: on the clock of ``time.monotonic``.
        why: which limit that is, in words.
    """

    at: float
    why: str


def deadline(timeout: float) -> Deadline:
    """Return when ranks started now have to be done, so that the report is out before a limit passes.

    Args:
        timeout: of the test, in seconds. Bazel's ``TEST_TIMEOUT`` counts too if it is set: it limits the whole target.

    Raises:
        ValueError: ``timeout`` is not positive.
        TimeoutError: the target has no time left to start ranks.
    """
    if timeout <= 0:
        raise ValueError(f"timeout is {timeout}; give the ranks a positive number of seconds")
    now = time.monotonic()
    limit = Deadline(now + timeout - min(1.0, timeout / 10), f"still ran when the timeout of {timeout:g} s ended")
    of_target = float(os.environ.get("TEST_TIMEOUT") or 0)
    if not of_target:
        return limit
    left = process_start() + of_target - min(10.0, of_target / 10) - time.time()
    if left <= 0:
        raise TimeoutError(f"no time left to start ranks: the target's TEST_TIMEOUT of {of_target:g} s is nearly over")
    if now + left < limit.at:
        return Deadline(now + left, f"still ran when the target's TEST_TIMEOUT of {of_target:g} s was nearly over")
    return limit
