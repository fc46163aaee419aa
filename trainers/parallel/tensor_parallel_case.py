"""What the tests of tensor parallel layers share: a mesh of one dimension, and this rank's part of a whole tensor."""

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from testing.distributed.case import DistributedTest
from trainers.parallel.mesh import ParallelSizes, build_mesh


class TensorParallelTest(DistributedTest):
    """Base of tests in which all ranks are one tensor parallel group."""

    def set_up(self) -> DeviceMesh:
        """Keep fp32 products in fp32, TF32 has the mantissa of fp16, and return the mesh."""
        torch.set_float32_matmul_precision("highest")
        return build_mesh(self.device.type, ParallelSizes(tp=self.world_size))

    def part(self, x: Tensor, dim: int) -> Tensor:
        """This rank's contiguous part of a tensor."""
        return x.chunk(self.world_size, dim)[self.rank]
