"""Staged states are copies, in memory that is kept. (Sharded tensors: full_state_test.)"""

import os
from collections import OrderedDict

import torch
from hypothesis import given
from hypothesis import strategies as st

from trainers.checkpoint.staging import Staging

DEVICE = "cuda" if os.environ["TRAINYARD_HARDWARE"] == "gpu" else "cpu"
DTYPES = [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8, torch.complex64]
TENSORS = st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=3))


@given(st.lists(TENSORS), st.integers(0, 2000))
def test_tensors_of_any_shape_and_dtype(forms, reserved):
    staging = Staging()
    staging.reserve(reserved)
    state = {n: torch.randn(shape, device=DEVICE).to(dtype) for n, (dtype, shape) in enumerate(forms)}
    for _ in range(2):
        copied = staging.copy(state)
        for name, tensor in state.items():
            assert copied[name].device.type == "cpu" and copied[name].dtype == tensor.dtype
            assert torch.equal(copied[name], tensor.cpu())
            assert copied[name].untyped_storage().nbytes() == tensor.nbytes
            tensor.copy_(tensor.flip(0) if tensor.ndim else ~tensor if tensor.dtype == torch.bool else tensor * 2)


def test_later_changes_are_not_seen():
    tensor, numbers = torch.arange(6.0, device=DEVICE), [1]
    copied = Staging().copy({"a": {"transposed": tensor.view(2, 3).t()}, "b": (tensor, numbers, None, "text")})
    tensor.zero_()
    numbers.append(2)
    assert copied["a"]["transposed"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert (copied["b"][0].tolist(), *copied["b"][1:]) == ([0, 1, 2, 3, 4, 5], [1], None, "text")


def test_memory_is_kept_and_pinned():
    staging = Staging()
    state = OrderedDict(x=torch.zeros(1000, device=DEVICE), y=torch.zeros(3, device=DEVICE))
    first = staging.copy(state)
    second = staging.copy(state)
    assert [each.data_ptr() for each in first.values()] == [each.data_ptr() for each in second.values()]
    assert first["x"].is_pinned() == (DEVICE == "cuda")
    grown = staging.copy({"x": torch.ones(2000, device=DEVICE), "y": torch.ones(3, device=DEVICE)})
    assert grown["x"].sum() == 2000 and grown["y"].data_ptr() == first["y"].data_ptr()


def test_what_was_reserved_is_used():
    staging = Staging()
    staging.reserve(4096)
    (chunk,) = staging._free
    copied = staging.copy({"x": torch.zeros(512, device=DEVICE), "y": torch.zeros(512, device=DEVICE)})
    addresses = [copied[name].data_ptr() - chunk.data_ptr() for name in "xy"]
    assert addresses == [0, 2048]
