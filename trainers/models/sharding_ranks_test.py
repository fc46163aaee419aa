"""FSDP2 over real ranks computes what one rank computes: loss, gradients, update, with dummies and uneven shares."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh

from testing.distributed.case import DistributedTest
from testing.tiny_models.models import VOCABULARY, tiny_model
from testing.tiny_models.samples import random_samples
from testing.tolerances.tolerances import assert_close
from trainers.attention.model_attention import use_packed_attention
from trainers.data.collator import collate_packed
from trainers.models.blocks import checkpoint_blocks
from trainers.models.inputs import model_inputs
from trainers.models.load import distribute_from_rank0, empty_model, materialise, read_model, whole_tensors
from trainers.models.sharding import shard_model
from trainers.models.token_loss import use_loss

SAMPLES = random_samples([9, 2, 17, 5, 30, 11], VOCABULARY)
COUNTED = sum(int((sample["labels"][1:] != -100).sum()) for sample in SAMPLES)
# Two steps; in the second, ranks from the second on have nothing but dummies.
SHARES = {
    1: [[[0, 1, 2, 3], [4, 5]]],
    2: [[[0, 3], [4, 5]], [[1, 2], []]],
    4: [[[0], [4, 5]], [[1, 2], []], [[3], []], [[], []]],
}


def train_one_batch(model, minibatches, world_size, device):
    total = torch.zeros((), device=device)
    for indices in minibatches:
        minibatch = collate_packed([SAMPLES[index] for index in indices], COUNTED)
        loss = model(**model_inputs(minibatch, device)).loss
        (loss * (world_size / COUNTED)).backward()  # (FSDP takes the mean over ranks)
        total += loss.detach()
    return total / COUNTED


class TestShardedModel(DistributedTest):
    world_size = [1, 2, 4]

    @pytest.mark.parametrize("architecture", ["llama_tied", "qwen3", "gpt2"])
    def test_one_batch_is_that_of_one_rank(self, architecture):
        reference = tiny_model(architecture)
        use_packed_attention(reference, "sdpa")
        use_loss(reference, "transformers")
        expected = train_one_batch(reference, SHARES[1][0], 1, torch.device("cpu"))

        model = tiny_model(architecture)
        use_packed_attention(model, "sdpa")
        use_loss(model, "fused")
        checkpoint_blocks(model, 1)
        mesh = init_device_mesh(self.device.type, (self.world_size,))
        shard_model(model.to(self.device), mesh, compute_dtype=torch.float32)
        loss = train_one_batch(model, SHARES[self.world_size][self.rank], self.world_size, self.device)
        torch.distributed.all_reduce(loss)
        assert_close(loss.cpu(), expected, "loss")
        for (name, parameter), wanted in zip(model.named_parameters(), reference.parameters(), strict=True):
            assert_close(parameter.grad.full_tensor().cpu(), wanted.grad, name)

    @pytest.mark.parametrize("reshard_after_forward", [True, False])
    def test_gradients_are_summed_in_fp32(self, reshard_after_forward):
        """Over ranks and two minibatches, of gradients in bf16, whose sum in bf16 would lose one in 2**9."""
        alone = tiny_model().to(self.device)
        for parameter in alone.parameters():  # (not buffers: rotary frequencies stay in fp32)
            parameter.data = parameter.data.bfloat16()
        sharded = tiny_model().to(self.device)
        for model in (alone, sharded):
            use_packed_attention(model, "sdpa")
            use_loss(model, "fused")
        mesh = init_device_mesh(self.device.type, (self.world_size,))
        shard_model(sharded, mesh, compute_dtype=torch.bfloat16, reshard_after_forward=reshard_after_forward)
        sums = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in alone.parameters()]
        for at in range(2):
            inputs = model_inputs(collate_packed([SAMPLES[self.rank + 2 * at]], COUNTED), self.device)
            alone.zero_grad()
            alone(**inputs).loss.backward()
            for total, parameter in zip(sums, alone.parameters(), strict=True):
                total += parameter.grad
            sharded.set_requires_gradient_sync(reshard_after_forward or at == 1)
            sharded(**inputs).loss.backward()
        for (name, parameter), total in zip(sharded.named_parameters(), sums, strict=True):
            assert parameter.dtype == parameter.grad.dtype == torch.float32
            torch.distributed.all_reduce(total)
            torch.testing.assert_close(
                parameter.grad.full_tensor(), total / self.world_size, rtol=1e-6, atol=1e-7, msg=name
            )

    @pytest.mark.parametrize("architecture", ["llama_tied", "gpt2", "glm4_moe"])
    def test_weights_from_rank_0(self, tmp_path, architecture):
        """And, where it has some, its buffers: what a router of experts has learnt to prefer."""
        whole = tiny_model(architecture)
        for buffer in whole_tensors(whole).keys() - dict(whole.named_parameters()).keys():
            whole.get_buffer(buffer).normal_()
        if self.rank == 0:
            whole.save_pretrained(tmp_path)
        torch.distributed.barrier()
        source = read_model(tmp_path) if self.rank == 0 else empty_model(tmp_path)
        weights = whole_tensors(source)
        model = empty_model(tmp_path)
        mesh = init_device_mesh(self.device.type, (self.world_size,))
        shard_model(model, mesh, compute_dtype=torch.float32)
        materialise(model, self.device)
        distribute_from_rank0(model, weights, mesh)
        for (name, parameter), wanted in zip(model.named_parameters(), whole.parameters(), strict=True):
            assert torch.equal(parameter.full_tensor().cpu(), wanted), name
        for (name, buffer), wanted in zip(model.named_buffers(), whole.buffers(), strict=True):
            assert buffer.device.type == self.device.type and torch.equal(buffer.cpu(), wanted), name
        use_packed_attention(model, "sdpa")
        use_packed_attention(whole, "sdpa")
        inputs = collate_packed(SAMPLES[:2], COUNTED)
        losses = [
            each(**model_inputs(inputs, where)).loss
            for each, where in ((model, self.device), (whole, torch.device("cpu")))
        ]
        assert_close(losses[0].cpu(), losses[1], "loss")
