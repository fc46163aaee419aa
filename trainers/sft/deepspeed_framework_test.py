"""ZeRO of either stage trains as a plain loop does, and a training of it goes on bit by bit."""

import shutil

import pytest
import torch
import torch.distributed as dist

from testing.distributed.case import DistributedTest
from testing.tolerances.tolerances import assert_close
from trainers.models.blocks import transformer_blocks
from trainers.sft.loop import train
from trainers.sft.plain_loop import check_against_reference
from trainers.sft.setup import set_up
from trainers.sft.sft_cases import Listener, config_of, weights_of, worker_of_test, write_case


@pytest.mark.parametrize("stage", [2, 3])
class TestRanks(DistributedTest):
    world_size = [1, 2, 4]

    def test_loss_curve_of_a_plain_loop(self, tmp_path, stage):
        check_against_reference(tmp_path, worker_of_test(self.device), framework="deepspeed", zero_stage=stage)


@pytest.mark.parametrize("stage", [2, 3])
class TestState(DistributedTest):
    world_size = 2

    def test_goes_on_bit_by_bit(self, tmp_path, stage):
        """And FSDP2 goes on from the same state."""
        worker = worker_of_test(self.device)
        config = self.config(tmp_path, stage, save_every_steps=3, keep_last=None)
        whole, again, sharded = Listener(), Listener(), Listener()
        train(config, worker, [whole])
        if self.rank == 0:
            for name in ("again", "sharded"):
                shutil.copytree(config.output / "states/step-0000000003", tmp_path / name / "states/step-0000000003")
        dist.barrier()
        train(config.model_copy(update={"output": tmp_path / "again"}), worker, [again])
        assert again.resumed_at == 3 and again.losses == whole.losses[3:]
        assert weights_of(tmp_path / "again/models") == weights_of(config.output / "models")
        changes = {"output": tmp_path / "sharded", "framework": "fsdp", "zero_stage": None}
        train(config.model_copy(update=changes), worker, [sharded])
        assert sharded.resumed_at == 3
        assert_close(torch.tensor(sharded.losses), torch.tensor(whole.losses[3:]), "losses", torch.bfloat16)

    def test_weights_are_fp32_and_infinite_gradients_skip_a_step(self, tmp_path, stage):
        worker = worker_of_test(self.device)
        training = set_up(self.config(tmp_path, stage), worker)
        exact = set_up(self.config(tmp_path, stage, framework="ddp", zero_stage=None), worker).model
        weights = dict(training.framework.whole_weights())
        assert weights.keys() == dict(exact.named_parameters()).keys()
        for name, parameter in exact.named_parameters():
            assert torch.equal(weights[name], parameter), name
        dtypes = set()
        transformer_blocks(training.model)[0].mlp.register_forward_hook(
            lambda module, inputs, output: dtypes.add(output.dtype)
        )
        minibatch = next(iter(training.loader)).minibatches[0]
        training.loss_of(minibatch).backward()
        assert dtypes == {torch.bfloat16}
        assert training.update().isfinite()
        stepped = dict(training.framework.whole_weights())
        assert all(not torch.equal(weight, weights[name]) for name, weight in stepped.items())
        (training.loss_of(minibatch) * torch.inf).backward()
        assert training.update().isinf()
        for name, weight in training.framework.whole_weights():
            assert torch.equal(weight, stepped[name]), name

    def config(self, folder, stage, **changes):
        if self.rank == 0 and not (folder / "model").exists():
            write_case(folder)
        dist.barrier()
        options = {"framework": "deepspeed", "zero_stage": stage, "compute_dtype": "bfloat16", **changes}
        return config_of(folder, **options)
