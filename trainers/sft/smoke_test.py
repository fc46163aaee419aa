"""Every permutation of options, as a whole run abbreviated: set up, train, save, resume, train, save, reload."""

import pytest

from trainers.sft.smoke_matrix import covering, singles
from trainers.sft.smoke_run import DEVICE_TYPE, WholeRuns, check_all_pairs_of_the_rest_are_run, check_refused

FRAMEWORKS = ("fsdp", "ddp")
REFUSED = {
    "fsdp": {"zero2": "framework=fsdp and zero_stage=2"},
    "ddp": {
        "keeps weights": "framework=ddp and reshard_after_forward=False",
        "cpu_offload": "framework=ddp and cpu_offload",
        "zero2": "framework=ddp and zero_stage=2",
    },
}
REFUSED_ON_CPU = {"liger": "loss=liger and device=cpu", "cpu_offload": "cpu_offload and device=cpu"}
REFUSED_TOGETHER = {
    ("lora", "osft"): "lora_rank=2 and osft_unfreeze=0.5",
    ("lora", "frozen"): "lora_rank=2 and osft_unfreeze=0.0",
    ("frozen", "muon"): "optimizer=muon and osft_unfreeze=0.0",
}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_is_left_out_is_refused(framework):
    alone = REFUSED[framework] | (REFUSED_ON_CPU if DEVICE_TYPE == "cpu" else {})
    check_refused(framework, alone, REFUSED_TOGETHER)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_all_pairs_of_the_rest_are_run(framework):
    check_all_pairs_of_the_rest_are_run(framework)


@pytest.mark.parametrize("framework", FRAMEWORKS)
class TestSingles(WholeRuns):
    world_size = [1, 2, 4]

    def test_whole_runs(self, tmp_path, subtests, framework):
        self.check(tmp_path, subtests, singles(framework, DEVICE_TYPE))


@pytest.mark.parametrize("framework", FRAMEWORKS)
class TestTogether(WholeRuns):
    world_size = 2

    def test_whole_runs(self, tmp_path, subtests, framework):
        self.check(tmp_path, subtests, covering(framework, DEVICE_TYPE))
