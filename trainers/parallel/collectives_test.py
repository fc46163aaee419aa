"""Collectives against what they mean, on every dtype, dimension and number of ranks."""

import pytest
import torch
import torch.distributed as dist

from testing.distributed.case import DistributedTest
from trainers.parallel.collectives import all_gather, all_reduce, reduce_scatter, require_divisible, split
from trainers.parallel.sum_cases import cancelling

DTYPES = (torch.float32, torch.bfloat16, torch.int64)


def values(rank, shape, dtype, device):
    """Small whole numbers, exact in every dtype and in every sum, different on every rank."""
    return torch.randint(-8, 8, shape, generator=torch.Generator().manual_seed(rank)).to(device, dtype)


class TestCollectives(DistributedTest):
    world_size = [2, 4, 8]

    def test_values(self, subtests):
        n, group = self.world_size, dist.group.WORLD
        shape = (2 * n, n, 3 * n)
        for dtype in DTYPES:
            everyone = [values(rank, shape, dtype, self.device) for rank in range(n)]
            own = everyone[self.rank]
            total = torch.stack(everyone).sum(0).to(dtype)
            with subtests.test(dtype=dtype, op="all_reduce"):
                assert torch.equal(all_reduce(own, group), total)
                assert torch.equal(all_reduce(own, group, op=dist.ReduceOp.MAX), torch.stack(everyone).amax(0))
            for dim in (0, 1, 2, -1):
                with subtests.test(dtype=dtype, dim=dim):
                    assert torch.equal(all_gather(own, dim, group), torch.cat(everyone, dim))
                    assert torch.equal(reduce_scatter(own, dim, group), total.chunk(n, dim)[self.rank])
                    assert torch.equal(split(own, dim, group), own.chunk(n, dim)[self.rank])

    def test_input_stays_and_result_is_dense_and_new(self):
        n, group = self.world_size, dist.group.WORLD
        # Not contiguous: what autograd hands to a backward often is not.
        x = values(self.rank, (2 * n, 3, n), torch.float32, self.device).transpose(0, 2)
        before = x.clone()
        for y in (
            all_reduce(x, group),
            all_gather(x, 1, group),
            reduce_scatter(x, 0, group),
            reduce_scatter(x, 2, group),
            split(x, 0, group),
        ):
            assert y.is_contiguous()
            y.add_(1)
            assert torch.equal(x, before)

    def test_a_dimension_that_does_not_divide_is_named(self):
        x = torch.zeros(2, self.world_size + 1, device=self.device)
        for collective in (reduce_scatter, split):
            with pytest.raises(
                ValueError, match=rf"dimension 1 .*\(2, {self.world_size + 1}\).*size {self.world_size}"
            ):
                collective(x, 1, dist.group.WORLD)

    def test_alone_nothing_is_sent(self):
        """In a group of one rank every collective gives its input back."""
        group = dist.new_subgroups(1)[0]
        x = torch.ones(3, device=self.device)
        for y in (all_reduce(x, group), all_gather(x, 0, group), reduce_scatter(x, 0, group), split(x, 0, group)):
            assert y is x


class TestReduceDtype(DistributedTest):
    world_size = [4, 8]

    def test_sums_are_taken_in_the_given_dtype_and_cast_back(self):
        n, group = self.world_size, dist.group.WORLD
        x = cancelling(n)[self.rank].to(self.device)
        for reduced in (all_reduce(x, group, torch.float32), reduce_scatter(x, 0, group, torch.float32)):
            assert reduced.dtype == torch.bfloat16 and (reduced == 1).all()


def test_require_divisible():
    assert require_divisible(12, 4, "width") == 3
    with pytest.raises(ValueError, match=r"width is 13.*size 4"):
        require_divisible(13, 4, "width")
