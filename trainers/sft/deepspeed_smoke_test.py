"""The same as smoke_test for DeepSpeed, apart from it, so that other tests need no DeepSpeed."""

from trainers.sft.smoke_matrix import covering
from trainers.sft.smoke_run import DEVICE_TYPE, WholeRuns, check_all_pairs_of_the_rest_are_run, check_refused

REFUSED = {
    "lora": "framework=deepspeed and lora_rank=2",
    "osft": "framework=deepspeed and osft_unfreeze=0.5",
    "frozen": "framework=deepspeed and osft_unfreeze=0.0",
    "muon": "framework=deepspeed and optimizer=muon",
    "keeps weights": "framework=deepspeed and reshard_after_forward=False",
    "cpu_offload": "framework=deepspeed and cpu_offload",
}
REFUSED_ON_CPU = {"liger": "loss=liger and device=cpu"}


def test_what_is_left_out_is_refused():
    check_refused("deepspeed", REFUSED | (REFUSED_ON_CPU if DEVICE_TYPE == "cpu" else {}), {})


def test_all_pairs_of_the_rest_are_run():
    check_all_pairs_of_the_rest_are_run("deepspeed")


class TestAlone(WholeRuns):
    world_size = 4

    def test_whole_run(self, tmp_path, subtests):
        self.check(tmp_path, subtests, [("deepspeed",)])


class TestTogether(WholeRuns):
    world_size = 2

    def test_whole_runs(self, tmp_path, subtests):
        of_stage_2 = covering("deepspeed", DEVICE_TYPE)
        of_stage_3 = [tuple(feature for feature in each if feature != "zero2") for each in of_stage_2]
        self.check(tmp_path, subtests, [*of_stage_2, *of_stage_3])
