"""Values whose sum over ranks shows in what precision it was taken."""

import itertools

import torch
from torch import Tensor


def cancelling(world_size: int) -> Tensor:
    """One row per rank, bf16, whose rows add up to ones in fp32 and, in any order of addition, not in bf16.

    One rank has 1024, another 1, a third -1024, in every column other ranks. In bf16 +-1024 + 1 is +-1024, so a column
    whose first two terms are such a pair comes out 0. Two ranks cannot tell: a single addition in bf16 is that in fp32,
    rounded.

    Returns:
        shape (world_size, n * (n - 1) * (n - 2)) with n = world_size of 3 or more.
    """
    assert world_size > 2
    columns = []
    for large, small, opposite in itertools.permutations(range(world_size), 3):
        column = torch.zeros(world_size)
        column[large], column[small], column[opposite] = 1024, 1, -1024
        columns.append(column)
    return torch.stack(columns, dim=1).bfloat16()
