"""ZeRO of either stage trains as a plain loop does, and a training of it goes on bit by bit."""

import shutil

import torch
import torch.distributed as dist

from testing.distributed.case import DistributedTest
from testing.tolerances.tolerances import assert_close
from trainers.data.collator import collate_packed
from trainers.data.jsonl_dataset import JsonlDataset
from trainers.models.blocks import transformer_blocks
from trainers.sft.loop import train
from trainers.sft.plain_loop import check_against_reference
from trainers.sft.setup import set_up
from trainers.sft.sft_cases import Listener, config_of, weights_of, worker_of_test, write_case


def folders_of_stages(folder, rank):
    """One after another on the same ranks, each of which imports DeepSpeed once."""
    for stage in (2, 3):
        if rank == 0:
            (folder / str(stage)).mkdir()
        dist.barrier()
        yield stage, folder / str(stage)


class TestRanks(DistributedTest):
    world_size = [1, 2]

    def test_loss_curve_of_a_plain_loop(self, tmp_path, subtests):
        for stage, folder in folders_of_stages(tmp_path, self.rank):
            with subtests.test(stage=stage):
                check_against_reference(folder, worker_of_test(self.device), framework="deepspeed", zero_stage=stage)


class TestState(DistributedTest):
    world_size = 2

    def test_goes_on_bit_by_bit_and_under_fsdp(self, tmp_path, subtests):
        worker = worker_of_test(self.device)
        for stage, folder in folders_of_stages(tmp_path, self.rank):
            with subtests.test(stage=stage):
                self.check_goes_on(folder, worker, stage)

    def check_goes_on(self, folder, worker, stage):
        config = self.config(folder, stage, save_every_steps=3, keep_last=None)
        whole, again, sharded = Listener(), Listener(), Listener()
        train(config, worker, [whole])
        if self.rank == 0:
            for name in ("again", "sharded"):
                shutil.copytree(config.output / "states/step-0000000003", folder / name / "states/step-0000000003")
        dist.barrier()
        train(config.model_copy(update={"output": folder / "again"}), worker, [again])
        assert again.resumed_at == 3 and again.losses == whole.losses[3:]
        assert weights_of(folder / "again/models") == weights_of(config.output / "models")
        changes = {"output": folder / "sharded", "framework": "fsdp", "zero_stage": None}
        train(config.model_copy(update=changes), worker, [sharded])
        assert sharded.resumed_at == 3
        assert_close(torch.tensor(sharded.losses), torch.tensor(whole.losses[3:]), "losses", torch.bfloat16)

    def test_weights_are_fp32_and_infinite_gradients_skip_a_step(self, tmp_path, subtests):
        worker = worker_of_test(self.device)
        for stage, folder in folders_of_stages(tmp_path, self.rank):
            with subtests.test(stage=stage):
                self.check_steps(folder, worker, stage)

    def check_steps(self, folder, worker, stage):
        training = set_up(self.config(folder, stage), worker)
        replicated = set_up(self.config(folder, stage, framework="ddp", zero_stage=None), worker)
        assert training.flops_per_token == replicated.flops_per_token
        exact = dict(replicated.model.named_parameters())
        weights = dict(training.framework.whole_weights())
        assert weights.keys() == exact.keys()
        assert all(torch.equal(weight, exact[name]) for name, weight in weights.items())
        dtypes = set()
        transformer_blocks(training.model)[0].mlp.register_forward_hook(
            lambda module, inputs, output: dtypes.add(output.dtype)
        )
        minibatch = next(iter(training.loader)).minibatches[0]
        training.loss_of(minibatch).backward()
        assert dtypes == {torch.bfloat16}
        assert training.framework.update().isfinite()
        stepped = dict(training.framework.whole_weights())
        assert all(not torch.equal(weight, weights[name]) for name, weight in stepped.items())
        (training.loss_of(minibatch) * torch.inf).backward()
        assert training.framework.update().isinf()
        assert all(torch.equal(weight, stepped[name]) for name, weight in training.framework.whole_weights())

    def test_gradients_are_summed_in_fp32(self, tmp_path, subtests):
        worker = worker_of_test(self.device)
        for stage, folder in folders_of_stages(tmp_path, self.rank):
            with subtests.test(stage=stage):
                self.check_sum(folder, worker, stage)

    def check_sum(self, folder, worker, stage):
        """The other rank's gradients are a thousandth of the same, which a sum in bf16 would lose."""
        training = set_up(self.config(folder, stage, learning_rate=1e-30), worker)
        minibatch = collate_packed([JsonlDataset(training.config.data)[0]], 0)
        norms = []
        for other in (0.0, 2.0**-10):
            (training.loss_of(minibatch) * (other if self.rank else 1.0)).backward()
            norms.append(training.framework.update())
        assert_close(norms[1], norms[0] * (1 + 2.0**-10), "norm")

    def config(self, folder, stage, **changes):
        if self.rank == 0 and not (folder / "model").exists():
            write_case(folder)
        dist.barrier()
        options = {"framework": "deepspeed", "zero_stage": stage, "compute_dtype": "bfloat16", **changes}
        return config_of(folder, **options)
