"""Compiled blocks compute what they are, and one graph of each kind serves all blocks, for any number of tokens."""

import itertools

import torch
from torch._dynamo.backends.registry import lookup_backend
from torch._dynamo.utils import counters, guard_failures
from torch.distributed.device_mesh import init_device_mesh

from testing.distributed.case import DistributedTest
from testing.tiny_models.models import VOCABULARY, tiny_model
from testing.tiny_models.samples import random_samples
from testing.tolerances.tolerances import assert_close
from trainers.attention.model_attention import use_packed_attention
from trainers.attention.packed import choose_backend
from trainers.data.collator import collate_packed, collate_padded
from trainers.models.blocks import checkpoint_blocks, compile_blocks
from trainers.models.inputs import model_inputs
from trainers.models.sharding import shard_model
from trainers.models.token_loss import use_loss

MINIBATCHES = [random_samples(lengths, VOCABULARY) for lengths in ([9, 2, 24, 5], [17, 11, 3], [30])]
ROUNDED = torch.finfo(torch.bfloat16).eps / 2


def distance(actual, exact):
    return ((actual - exact).norm() / exact.norm()).item()


class TestCompiledBlocks(DistributedTest):
    """Sharded, as in training: to FSDP's modules the compiler goes by rules of their own.

    Widths are multiples of 8: of others it weighs, for few and for many tokens, whether to pad them.
    """

    world_size = 1

    def test_loss_gradients_and_graphs(self, monkeypatch):
        """Of two blocks that keep their activations, and two that do not."""
        self.record_graphs(monkeypatch)
        dtypes = (self.dtype, self.dtype, torch.float32)
        compiled, eager, exact = (self.model(dtype, intermediate_size=64, num_hidden_layers=4) for dtype in dtypes)
        compile_blocks(compiled)
        for model, dtype in zip((compiled, eager, exact), dtypes, strict=True):
            shard_model(model, init_device_mesh(self.device.type, (1,)), compute_dtype=dtype)
        checkpoint_blocks(compiled, 2, compiled=True)
        for at, samples in enumerate(MINIBATCHES):
            results = (self.loss_and_gradients(model, samples) for model in (compiled, eager, exact))
            for which, (actual, expected, true) in enumerate(zip(*results, strict=True)):
                name = f"{which} of minibatch {at}"
                if self.dtype == torch.float32:
                    assert_close(actual, expected, name)
                else:  # (bf16 rounds in each of four blocks: no further from the exact value than without the compiler)
                    assert distance(actual, true) <= 2 * distance(expected, true) + ROUNDED, name
        assert counters["stats"]["unique_graphs"] == 2, dict(guard_failures)
        assert not counters["graph_break"]
        # What varies from minibatch to minibatch: sequences, tokens, tokens of the longest sequence.
        assert len(self.variables) == 2
        for variables in self.variables:
            assert len(variables) <= 3, f"constants are taken for variables: {variables}"

    def test_a_small_minibatch_after_a_large_one(self, monkeypatch):
        """For a large one the compiler chooses kernels that it would not choose for a small one."""
        self.record_graphs(monkeypatch)
        sizes = dict(hidden_size=1024, intermediate_size=2048, num_hidden_layers=1, max_position_embeddings=8192)
        model = self.model(self.dtype, initializer_range=0.02, **sizes)
        compile_blocks(model)
        shard_model(model, init_device_mesh(self.device.type, (1,)), compute_dtype=self.dtype)
        for length in (5200 if self.device.type == "cuda" else 52, 40):
            self.loss_and_gradients(model, random_samples([length], VOCABULARY))
        assert counters["stats"]["unique_graphs"] == 1, dict(guard_failures)

    @property
    def dtype(self):
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def model(self, dtype, **changes):
        model = tiny_model(**changes).to(self.device)
        use_loss(model, "transformers")  # (ours is compiled itself on a GPU)
        if self.device.type == "cuda":  # (on a CPU packed attention goes by the lengths of sequences, not compiled)
            use_packed_attention(model, choose_backend(self.device, dtype))
        return model

    def loss_and_gradients(self, model, samples):
        collated = collate_packed(samples, 0) if self.device.type == "cuda" else collate_padded(samples[:1], 0, 0)
        model.zero_grad()
        loss = model(**model_inputs(collated, self.device)).loss / collated["num_loss_counted_tokens"]
        loss.backward()
        return [loss.detach(), *(parameter.grad.full_tensor() for parameter in model.parameters())]

    def record_graphs(self, monkeypatch):
        monkeypatch.setattr(torch, "compile", self.recording_compile(torch.compile))
        torch._dynamo.reset()
        counters.clear()
        self.variables = []

    def recording_compile(self, compile):
        """Return torch.compile that notes the numbers among each graph's arguments. On a CPU it makes no kernels."""
        kernels = self.device.type == "cuda"
        backend = lookup_backend("inductor" if kernels else "aot_eager_decomp_partition")

        def recording(graph, example_inputs, options):
            arguments = itertools.takewhile(lambda node: node.op == "placeholder", graph.graph.nodes)
            values = [node.meta["example_value"] for node in arguments]
            numbers = [str(value) for value in values if not isinstance(value, torch.Tensor) or not value.ndim]
            # (a width is given as a number too, but known to be constant by then)
            self.variables.append([number for number in numbers if not number.isdigit()])
            return backend(graph, example_inputs, **({"config_patches": options} if kernels else {}))

        return lambda forward, **options: compile(forward, backend=recording, **options)
