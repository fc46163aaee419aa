"""Every permutation of options, as a whole run abbreviated: set up, train, save, resume, train, save, reload."""

import os
from itertools import combinations

import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from testing.distributed.case import DistributedTest
from testing.tolerances.tolerances import assert_close
from trainers.sft.loop import train
from trainers.sft.sft_cases import Listener, config_of, mean_loss, worker_of_test, write_case
from trainers.sft.smoke_matrix import (
    FEATURES,
    FRAMEWORKS,
    covering,
    options_of,
    refused_pairs,
    refused_singles,
    singles,
)

DEVICE_TYPE = {"cpu": "cpu", "gpu": "cuda"}[os.environ["TRAINYARD_HARDWARE"]]
REFUSED = {
    ("ddp", "keeps weights"): "framework=ddp and reshard_after_forward=False",
    ("ddp", "cpu_offload"): "framework=ddp and cpu_offload",
}
REFUSED_ON_CPU = {
    ("fsdp", "liger"): "loss=liger and device=cpu",
    ("ddp", "liger"): "loss=liger and device=cpu",
    ("fsdp", "cpu_offload"): "cpu_offload and device=cpu",
}
REFUSED_TOGETHER = {
    (framework, "lora", other): f"lora_rank=2 and osft_unfreeze={share}"
    for framework in FRAMEWORKS
    for other, share in (("osft", 0.5), ("frozen", 0.0))
} | {(framework, "frozen", "muon"): "optimizer=muon and osft_unfreeze=0.0" for framework in FRAMEWORKS}


@pytest.mark.parametrize(
    ("refused", "expected"),
    [
        (refused_singles(DEVICE_TYPE), REFUSED | (REFUSED_ON_CPU if DEVICE_TYPE == "cpu" else {})),
        (refused_pairs(DEVICE_TYPE), REFUSED_TOGETHER),
    ],
    ids=["alone", "together"],
)
def test_what_is_left_out_is_refused(refused, expected):
    assert refused.keys() == expected.keys()
    for combination, reason in refused.items():
        assert expected[combination] in reason


def test_all_pairs_of_the_rest_are_run():
    known = [set(each) for each in (*covering(DEVICE_TYPE), *refused_pairs(DEVICE_TYPE))]
    for framework in FRAMEWORKS:
        taken = [feature for feature in FEATURES if (framework, feature) in singles(DEVICE_TYPE)]
        for one, other in combinations(taken, 2):
            of_one_field = FEATURES[one].keys() & FEATURES[other].keys()
            assert of_one_field or any({framework, one, other} <= each for each in known), (framework, one, other)


class WholeRuns(DistributedTest):
    """Checks one combination after another on the same ranks, which is twice as fast as ranks for each."""

    timeout = 300

    def check(self, folder, subtests, combinations):
        worker = worker_of_test(self.device)
        for combination in combinations:
            with subtests.test(" ".join(combination)):
                check_whole_run(folder / "-".join(combination), worker, combination)


@pytest.mark.parametrize("framework", FRAMEWORKS)
class TestSingles(WholeRuns):
    world_size = [1, 2, 4]

    def test_whole_runs(self, tmp_path, subtests, framework):
        self.check(tmp_path, subtests, [each for each in singles(DEVICE_TYPE) if each[0] == framework])


class TestTogether(WholeRuns):
    world_size = 2

    def test_whole_runs(self, tmp_path, subtests):
        self.check(tmp_path, subtests, covering(DEVICE_TYPE))


def check_whole_run(folder, worker, combination):
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


def check_saved(folder, combination, losses):
    """Transformers computes of what was saved what the training computed, and what was to be trained has changed."""
    former = weights_of(folder / "model")
    for step, loss in zip((3, 6), losses, strict=True):
        saved = folder / f"output/models/step-{step:010d}"
        model = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32, attn_implementation="eager")
        expected = mean_loss(model, folder / "data.jsonl")
        assert expected.isfinite()
        assert_close(
            torch.tensor(loss), expected, f"loss at step {step}", torch.bfloat16 if "bf16" in combination else None
        )
        weights = weights_of(saved)
        changed = {name for name, weight in weights.items() if differs(weight, former[name])}
        projections = {name for name in weights if "_proj" in name}
        if "lora" in combination:
            assert changed == projections
        elif "frozen" in combination:
            assert changed == weights.keys() - projections
        else:
            assert changed == weights.keys()
        former = weights


def weights_of(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()


def differs(weight, former):
    """Beyond a change of dtype and the rows that an embedding has gained."""
    return not torch.equal(weight[: len(former)], former.to(weight.dtype))
