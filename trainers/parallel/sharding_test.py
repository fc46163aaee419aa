"""Which rows a rank holds, and how whole parameters are drawn and sharded."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trainers.parallel.sharding import (
    copy_shard,
    draw_full,
    head_rows,
    inverse_permutation,
    linear_bias,
    linear_weight,
    shard_index,
)

counts = st.integers(1, 6)


@given(counts, counts, counts)
def test_ranks_hold_equal_parts_of_each_fused_weight(stride, world_size, length):
    size = stride * world_size * length
    full = torch.arange(size)
    for rank in range(world_size):
        parts = [weight.chunk(world_size)[rank] for weight in full.chunk(stride)]
        assert torch.equal(shard_index(size, world_size, rank, stride=stride), torch.cat(parts))


@given(counts, counts, counts)
def test_shards_joined_in_the_inverse_order_are_whole(stride, world_size, length):
    size = stride * world_size * length
    joined = torch.cat([shard_index(size, world_size, rank, stride=stride) for rank in range(world_size)])
    assert torch.equal(joined[inverse_permutation(joined)], torch.arange(size))


def test_fused_gate_and_up():
    assert shard_index(8, 2, 0, stride=2).tolist() == [0, 1, 4, 5]
    assert shard_index(8, 2, 1, stride=2).tolist() == [2, 3, 6, 7]


def test_head_rows():
    assert head_rows((2, 0), 3).tolist() == [6, 7, 8, 0, 1, 2]


@pytest.mark.parametrize(
    ("size", "world_size", "stride", "message"),
    [
        (10, 4, 1, r"size 10 .* 4"),
        (10, 1, 3, r"10 .* stride=3"),
        (12, 4, 2, r"12 / stride 2 is 6.* 4"),
        (4, 2, 0, "stride=0"),
    ],
)
def test_sizes_that_do_not_split_are_named(size, world_size, stride, message):
    with pytest.raises(ValueError, match=message):
        shard_index(size, world_size, 0, stride=stride)


def test_copy_shard_casts_and_takes_either_dimension():
    full = torch.arange(12.0).view(3, 4)
    for dim, index in ((0, torch.tensor([2, 0])), (1, torch.tensor([3, 1]))):
        parameter = nn.Parameter(torch.zeros_like(full.index_select(dim, index), dtype=torch.bfloat16))
        copy_shard(parameter, full, dim, index)
        assert torch.equal(parameter.float(), full.index_select(dim, index))


@pytest.mark.parametrize(
    ("shape", "dim", "index"), [((2, 4), 0, [0, 1, 2]), ((2, 5), 0, [0, 1]), ((2, 4), 0, [0, 3]), ((3, 2), 1, [0, 4])]
)
def test_copy_shard_of_another_shape_is_an_error(shape, dim, index):
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        copy_shard(nn.Parameter(torch.zeros(shape)), torch.zeros(3, 4), dim, torch.tensor(index))


def test_drawn_as_torch_draws_a_linear_layer():
    torch.manual_seed(0)
    plain = nn.Linear(7, 5)
    torch.manual_seed(0)
    assert torch.equal(draw_full((5, 7), linear_weight), plain.weight)
    assert torch.equal(draw_full((5,), linear_bias(7)), plain.bias)


def test_drawn_in_fp32_on_the_cpu_whatever_the_defaults():
    with torch.device("meta"):
        full = draw_full((5, 7), linear_weight)
    assert full.device.type == "cpu" and full.dtype == torch.float32
