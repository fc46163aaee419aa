"""As many blocks are recomputed as do not fit, and a sharded model is left as it was."""

import gc
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from testing.distributed.case import DistributedTest
from testing.tiny_models.models import VOCABULARY, tiny_model
from trainers.models import activation_memory
from trainers.models.activation_memory import blocks_to_checkpoint
from trainers.models.blocks import checkpoint_blocks
from trainers.models.sharding import shard_model

DEVICE = torch.device({"cpu": "cpu", "gpu": "cuda"}[os.environ["TRAINYARD_HARDWARE"]])
# Activations are most of the memory, and on a GPU far above what its allocator rounds up.
TOKENS, HIDDEN = {"cpu": (512, 32), "cuda": (16384, 256)}[DEVICE.type]
BLOCKS = 6
# More than are needed: room is left for two blocks that are computed anew, all gradients and 4 % of the limit.
CAUTION = 3


class AllocatorOfCpu(TorchDispatchMode):
    """Counts what tensors on the CPU take, without what operators need inside."""

    def __init__(self):
        super().__init__()
        self.allocated = self.peak = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._count, result)
        return result

    def _count(self, tensor):
        storage = tensor.untyped_storage()
        if storage not in self._known:
            self._known[storage] = storage.nbytes()
            self._add(storage.nbytes())
            weakref.finalize(storage, self._add, -storage.nbytes())

    def _add(self, size):
        self.allocated += size
        self.peak = max(self.peak, self.allocated)

    def reset(self):
        self.peak = self.allocated


@contextmanager
def allocator() -> Iterator[None]:
    """Where there is no GPU, `torch.cuda` tells of the CPU's tensors."""
    if DEVICE.type == "cuda":
        yield
        return
    with AllocatorOfCpu() as counted, pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "memory_allocated", lambda: counted.allocated)
        patch.setattr(torch.cuda, "max_memory_allocated", lambda: counted.peak)
        patch.setattr(torch.cuda, "reset_peak_memory_stats", counted.reset)
        yield


def model_and_loss(architecture="llama", tokens=TOKENS, **changes):
    sizes = {"hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN, "num_hidden_layers": BLOCKS, **changes}
    model = tiny_model(architecture, attn_implementation="sdpa", **sizes).to(DEVICE)
    ids = torch.arange(tokens, device=DEVICE)[None] % VOCABULARY
    return model, lambda module=model: module(input_ids=ids, labels=ids, use_cache=False).loss


def replicated(model):
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def peak_of_training(count, wrap=lambda model: model, **sizes):
    """Return the most memory that a step takes of which the first ``count`` blocks are computed anew."""
    gc.collect()
    model, loss_of = model_and_loss(**sizes)
    checkpoint_blocks(model, count)
    module = wrap(model)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for _ in range(2):  # (the second finds the moments there)
        torch.cuda.reset_peak_memory_stats()
        loss_of(module).backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.cuda.max_memory_allocated()


def test_as_few_as_fit():
    with allocator():
        peaks = [peak_of_training(count) for count in range(BLOCKS + 1)]
        assert peaks == sorted(peaks, reverse=True)
        gc.collect()
        model, loss_of = model_and_loss()
        for needed in (0, 1, 3):
            limit = 1.05 * peaks[needed]
            chosen = blocks_to_checkpoint(model, loss_of, limit)
            assert torch.cuda.max_memory_allocated() < peaks[-1], "measuring takes more than training"
            assert peaks[chosen] <= limit
            assert needed <= chosen <= needed + CAUTION, f"{needed} are enough, {chosen} were chosen"
        assert blocks_to_checkpoint(model, loss_of, 0.9 * peaks[-1]) == BLOCKS
        assert blocks_to_checkpoint(model, loss_of, 2 * peaks[0]) == 0


def test_what_recomputation_frees_is_measured_exactly():
    """With heads that are wider together than the hidden states: attention's result is what such a block keeps."""
    kept = []
    with allocator():
        model, loss_of = model_and_loss("qwen3", head_dim=HIDDEN // 2)
        measured = activation_memory._measure(model, loss_of)
        for count in (1, 2):  # (the first one keeps the arguments of all)
            checkpoint_blocks(model, count)
            before = torch.cuda.memory_allocated()
            loss = loss_of()
            kept.append(torch.cuda.memory_allocated() - before)
            del loss
    rounded = 0.0 if DEVICE.type == "cpu" else 1e-3
    assert measured.kept - measured.recomputed == pytest.approx(kept[0] - kept[1], rel=rounded)


def test_what_is_trained_elsewhere_takes_no_memory_here():
    """Offloaded to the host's, as FSDP can; here the other device is meta."""
    offloaded = torch.nn.Parameter(torch.empty(1 << 40, device="meta"))
    with allocator():
        model, loss_of = model_and_loss()
        model.offloaded = offloaded
        assert blocks_to_checkpoint(model, loss_of, offloaded.nbytes / 4) == 0  # (no room for it, but for the model)


class TestReplicated(DistributedTest):
    world_size = 1

    def test_gradients_are_counted_once(self):
        """They are most of the memory here; DDP has room for them before the first of them is there."""
        sizes = {"tokens": TOKENS // 32}
        with allocator():
            peaks = [peak_of_training(count, replicated, **sizes) for count in range(BLOCKS + 1)]
            gc.collect()
            model, loss_of = model_and_loss(**sizes)
            module = replicated(model)
            loss_of(module).backward()
            module.zero_grad()
            for needed in (0, 2):
                limit = 1.05 * peaks[needed]
                chosen = blocks_to_checkpoint(model, loss_of, limit, in_buckets=True)
                assert peaks[chosen] <= limit
                assert needed <= chosen <= needed + CAUTION, f"{needed} are enough, {chosen} were chosen"


class TestSharded(DistributedTest):
    world_size = 2

    def test_the_optimizer_finds_the_shards(self):
        with allocator():
            model, loss_of = model_and_loss()
            shard_model(model, init_device_mesh(DEVICE.type, (2,)), compute_dtype=torch.float32)
            before = list(model.parameters())
            blocks_to_checkpoint(model, loss_of, 1e9)
            after = list(model.parameters())
        assert all(isinstance(parameter, DTensor) and parameter.grad is None for parameter in after)
        assert all(one is other for one, other in zip(before, after, strict=True))
