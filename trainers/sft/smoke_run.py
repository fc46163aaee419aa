"""Every permutation of a framework's options, as a whole run abbreviated."""

import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from transformers import AutoModelForCausalLM

from testing.distributed.case import DistributedTest
from testing.tolerances.tolerances import assert_close
from trainers.sft.loop import train
from trainers.sft.sft_cases import Listener, config_of, mean_loss, worker_of_test, write_case
from trainers.sft.smoke_matrix import (
    FEATURES,
    Combination,
    covering,
    options_of,
    refused_pairs,
    refused_singles,
    singles,
)
from trainers.sft.worker import Worker

DEVICE_TYPE = {"cpu": "cpu", "gpu": "cuda"}[os.environ["TRAINYARD_HARDWARE"]]


def check_refused(framework: str, alone: Mapping[str, str], together: Mapping[tuple[str, str], str]) -> None:
    """Check that these features and pairs, and no others, are refused, for these reasons."""
    for refused, expected in (
        (refused_singles(framework, DEVICE_TYPE), {(name,): reason for name, reason in alone.items()}),
        (refused_pairs(framework, DEVICE_TYPE), together),
    ):
        assert refused.keys() == {(framework, *features) for features in expected}
        for features, reason in expected.items():
            assert reason in refused[framework, *features]


def check_all_pairs_of_the_rest_are_run(framework: str) -> None:
    """Check that of all features that a framework takes, each two are run together or refused."""
    known = [set(each) for each in (*covering(framework, DEVICE_TYPE), *refused_pairs(framework, DEVICE_TYPE))]
    taken = [feature for feature in FEATURES if (framework, feature) in singles(framework, DEVICE_TYPE)]
    for one, other in combinations(taken, 2):
        of_one_field = FEATURES[one].keys() & FEATURES[other].keys()
        assert of_one_field or any({one, other} <= each for each in known), (framework, one, other)


class WholeRuns(DistributedTest):
    """Checks one combination after another on the same ranks, which is twice as fast as ranks for each."""

    timeout = 300

    def check(self, folder: Path, subtests: pytest.Subtests, combinations: Sequence[Combination]) -> None:
        """Run each combination."""
        worker = worker_of_test(self.device)
        for combination in combinations:
            with subtests.test(" ".join(combination)):
                check_whole_run(folder / "-".join(combination), worker, combination)


def check_whole_run(folder: Path, worker: Worker, combination: Combination) -> None:
    """Set up, train, save, resume, train, save, reload."""
    if worker.rank == 0:
        folder.mkdir()
        write_case(folder)
    dist.barrier()
    # Batches of 3: of 4 ranks one has a dummy.
    config = config_of(
        folder,
        **{"compute_dtype": "float32", **options_of(combination)},
        batch_size=3,
        steps=3,
        schedule="constant",
        compile=False,
        validation_data=folder / "data.jsonl",
        validate_every_steps=3,
    )
    first, second = Listener(), Listener()
    train(config, worker, [first])
    train(config.model_copy(update={"steps": 6}), worker, [second])
    assert second.resumed_at == 3
    assert [record["step"] for record in first.steps + second.steps] == [1, 2, 3, 4, 5, 6]
    assert first.saves == [("state", 3), ("model", 3)] and second.saves == [("state", 6), ("model", 6)]
    if worker.rank == 0:
        check_saved(folder, combination, [first.validations[0]["loss"], second.validations[0]["loss"]])


def check_saved(folder: Path, combination: Combination, losses: Sequence[float]) -> None:
    """Transformers computes of what was saved what the training computed, and what was to be trained has changed."""
    former = _state_of(folder / "model")
    for step, loss in zip((3, 6), losses, strict=True):
        saved = folder / f"output/models/step-{step:010d}"
        model = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32, attn_implementation="eager")
        expected = mean_loss(model, folder / "data.jsonl")
        assert expected.isfinite()
        assert_close(
            torch.tensor(loss), expected, f"loss at step {step}", torch.bfloat16 if "bf16" in combination else None
        )
        weights = _state_of(saved)
        changed = {name for name, weight in weights.items() if _differs(weight, former[name])}
        projections = {name for name in weights if "_proj" in name}
        if "lora" in combination:
            assert changed == projections
        elif "frozen" in combination:
            assert changed == weights.keys() - projections
        else:
            assert changed == weights.keys()
        former = weights


def _state_of(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()
    return state


def _differs(weight: Tensor, former: Tensor) -> bool:
    """Beyond a change of dtype and the rows that an embedding has gained."""
    return not torch.equal(weight[: len(former)], former.to(weight.dtype))
