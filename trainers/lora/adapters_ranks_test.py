"""LoRA under FSDP2: frozen and trained parameters of a block sharded side by side."""

import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from testing.distributed.case import DistributedTest
from testing.tiny_models.models import tiny_model
from testing.tiny_models.shards import shard, whole, whole_state
from testing.tiny_models.training import backward, token_ids, train
from testing.tolerances.tolerances import assert_close
from trainers.lora.adapters import add_lora, merged_tensors
from trainers.optim.gradient_step import GradientStep
from trainers.optim.optimizer import build_optimizer
from trainers.optim.schedule import build_schedule


class TestLoraOnRanks(DistributedTest):
    world_size = [1, 2, 4]

    def models(self):
        """One for a single rank, one sharded, with each rank's generator in a state of its own."""
        single, model = tiny_model().to(self.device), tiny_model().to(self.device)
        torch.manual_seed(100 + self.rank)
        single, model = add_lora(single, rank=3), add_lora(model, rank=3)
        layers = model.get_base_model().model.layers
        for number, block in enumerate(layers):
            layers[number] = checkpoint_wrapper(block)
        shard(model)
        return single, model

    def test_gradients_are_those_of_one_rank(self):
        single, model = self.models()
        ids = token_ids(4, 0, self.device)
        backward(single, ids)
        backward(model, ids.chunk(self.world_size)[self.rank])
        for (name, expected), actual in zip(single.named_parameters(), model.parameters(), strict=True):
            assert (actual.grad is None) == (expected.grad is None) == (not expected.requires_grad), name
            if expected.grad is not None:
                assert_close(whole(actual.grad), expected.grad, name)

    def test_training_is_that_of_one_rank(self):
        """With SGD: A's gradients start at zero, and Adam would divide the rounding of the first ones by itself."""
        single, model = self.models()
        frozen = {name for name, p in single.named_parameters() if not p.requires_grad}
        before = whole_state(model)
        for each, rank, num_ranks in ((single, 0, 1), (model, self.rank, self.world_size)):
            optimizer = build_optimizer(each, 1.0, name="sgd")
            schedule = build_schedule(optimizer, "constant", num_training_steps=3)
            train(each, GradientStep(each, optimizer, schedule), 3, rank, num_ranks)
        expected = whole_state(single)
        for name, value in whole_state(model).items():
            assert torch.equal(value, before[name]) == (name in frozen), name
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5, msg=lambda t, n=name: f"{n}: {t}")
        merged, expected = {name: whole(value) for name, value in merged_tensors(model)}, dict(merged_tensors(single))
        assert list(merged) == list(expected) == list(tiny_model().state_dict())
        for name, value in merged.items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5, msg=lambda t, n=name: f"{n}: {t}")
