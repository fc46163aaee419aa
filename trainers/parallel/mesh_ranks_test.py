"""The mesh of real ranks is the one that the arithmetic describes."""

import pytest
import torch
import torch.distributed as dist

from testing.distributed.case import DistributedTest
from trainers.parallel.mesh import ParallelSizes, build_mesh, is_logging_rank, tensor_parallel_group

SIZES = {
    2: ((1, 1, 1, 2), (2, 1, 1, 1)),
    4: ((2, 1, 1, 2), (1, 2, 2, 1), (1, 1, 1, 4)),
    8: ((2, 2, 1, 2), (2, 1, 2, 2), (1, 2, 1, 4)),
}


class TestMesh(DistributedTest):
    world_size = [2, 4, 8]

    def test_coordinates_and_groups(self):
        for each in SIZES[self.world_size]:
            sizes = ParallelSizes(*each)
            mesh = build_mesh(self.device.type, sizes)
            own = sizes.coordinate_of(self.rank)
            assert tuple(mesh.get_coordinate()) == own
            for name in ("pp", "dp", "cp", "tp"):
                peers = [sizes.rank_of(own._replace(**{name: i})) for i in range(getattr(sizes, name))]
                assert dist.get_process_group_ranks(mesh.get_group(name)) == peers
                assert mesh.get_local_rank(name) == getattr(own, name)

    def test_groups_reduce_among_their_own(self):
        for each in SIZES[self.world_size]:
            sizes = ParallelSizes(*each)
            group = tensor_parallel_group(build_mesh(self.device.type, sizes))
            total = torch.tensor([self.rank], device=self.device)
            dist.all_reduce(total, group=group)
            own = sizes.coordinate_of(self.rank)
            assert total.item() == sum(sizes.rank_of(own._replace(tp=i)) for i in range(sizes.tp))

    def test_one_rank_reports(self):
        for each in SIZES[self.world_size]:
            sizes = ParallelSizes(*each)
            mesh = build_mesh(self.device.type, sizes)
            assert is_logging_rank(mesh) is (self.rank == sizes.logging_rank)

    def test_sizes_that_do_not_multiply_to_the_world_size(self):
        wrong = ParallelSizes(dp=3, tp=2)
        with pytest.raises(
            ValueError, match=rf"dp=3 .* tp=2 = 6, but the world size is {self.world_size}: start 6 ranks"
        ):
            build_mesh(self.device.type, wrong)

    def test_a_mesh_without_tensor_parallel_dimension(self):
        mesh = build_mesh(self.device.type, ParallelSizes(dp=self.world_size))
        with pytest.raises(ValueError, match=r"\('dp',\).*'tp'"):
            tensor_parallel_group(mesh["dp"])
