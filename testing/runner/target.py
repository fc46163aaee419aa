"""What a test declaration says about the tests that run here."""

import dataclasses
import fnmatch
import json
from collections.abc import Mapping

TIERS = ("lint", "unit", "subsystem", "smoke", "benchmark")
HARDWARE = ("cpu", "gpu", "trainium")


@dataclasses.dataclass(frozen=True)
class Target:
    """One target: the tests of one declaration on one kind of hardware."""

    name: str
    files: tuple[str, ...]  # relative to the repo root
    tier: str
    hardware: str = "cpu"
    devices: int = 1
    allowed_skips: tuple[str, ...] = ()

    def allows_skip(self, reason: str) -> bool:
        """Says whether the declaration lists a reason, exactly or as an fnmatch pattern."""
        return any(reason == allowed or fnmatch.fnmatchcase(reason, allowed) for allowed in self.allowed_skips)

    @property
    def markers(self) -> tuple[str, ...]:
        """Tier and hardware as pytest markers; `multi_gpu` from two GPUs on."""
        several_gpus = self.hardware == "gpu" and self.devices > 1
        return (self.tier, self.hardware) + (("multi_gpu",) if several_gpus else ())


def target_from_environment(env: Mapping[str, str]) -> Target:
    """Reads what `trainer_test` put into the environment of the test.

    Raises:
        ValueError: the process was not started by `bazel test` or `bazel run` of a `trainer_test`.
    """
    missing = [name for name in ("TRAINYARD_TARGET", "TRAINYARD_HARDWARE", "TRAINYARD_DEVICES") if name not in env]
    if missing:
        raise ValueError(
            f"{missing[0]} is not set: start this test with `bazel test` or `bazel run`, or its file with `pytest`"
        )
    declared = json.loads(env["TRAINYARD_TARGET"])
    return Target(
        name=env.get("TEST_TARGET", declared["files"][0]),
        files=tuple(declared["files"]),
        tier=declared["tier"],
        hardware=env["TRAINYARD_HARDWARE"],
        devices=int(env["TRAINYARD_DEVICES"]),
        allowed_skips=tuple(declared["allowed_skips"]),
    )
