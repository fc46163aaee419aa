"""Regions forward and backward, against what each means."""

import torch
import torch.distributed as dist

from testing.distributed.case import DistributedTest
from trainers.parallel import mappings
from trainers.parallel.sum_cases import cancelling


def values(seed, *shape):
    """Small whole numbers, exact in fp32 and bf16 and in every sum."""
    return torch.randint(-8, 8, shape, generator=torch.Generator().manual_seed(seed)).float()


def run_region(test, region, inputs, grads):
    """Output and input gradient of this rank's input and output gradient."""
    x = inputs[test.rank].to(test.device).requires_grad_()
    y = region(x, dist.group.WORLD)
    y.backward(grads[test.rank].to(test.device))
    return y.detach().cpu(), x.grad.cpu()


class TestMappings(DistributedTest):
    world_size = [2, 4, 8]

    def test_forward_and_backward(self, subtests):
        n, r = self.world_size, self.rank
        part, whole = (2, 3, 4), (2 * n, 3, 4)
        wide = (2, 3, 4 * n)

        def everyone(shape, seed):
            return [values(seed + rank, *shape) for rank in range(n)]

        # Name: shape in, shape out, output and gradient in terms of all ranks' inputs and output gradients.
        cases = {
            "copy_to_region": (part, part, lambda x: x[r], lambda g: sum(g)),
            "reduce_from_region": (part, part, lambda x: sum(x), lambda g: g[r]),
            "scatter_to_region": (wide, part, lambda x: x[r].chunk(n, -1)[r], lambda g: torch.cat(g, -1)),
            "gather_from_region": (part, wide, lambda x: torch.cat(x, -1), lambda g: g[r].chunk(n, -1)[r]),
            "gather_sequence": (part, whole, lambda x: torch.cat(x), lambda g: sum(g).chunk(n)[r]),
            "reduce_scatter_sequence": (whole, part, lambda x: sum(x).chunk(n)[r], lambda g: torch.cat(g)),
            "scatter_sequence": (whole, part, lambda x: x[r].chunk(n)[r], lambda g: torch.cat(g)),
        }
        for name, (shape_in, shape_out, output, gradient) in cases.items():
            with subtests.test(name):
                inputs, grads = everyone(shape_in, 0), everyone(shape_out, 100)
                y, grad = run_region(self, getattr(mappings, name), inputs, grads)
                assert torch.equal(y, output(inputs))
                assert torch.equal(grad, gradient(grads))

    def test_outputs_may_be_edited_in_place(self):
        """Autograd forbids that for views that custom functions return; regions return none that matter to users."""
        n = self.world_size
        for name in ("scatter_to_region", "gather_from_region", "reduce_from_region", "scatter_sequence"):
            x = torch.ones(n, 2, n, device=self.device, requires_grad=True)
            y = getattr(mappings, name)(x * 1, dist.group.WORLD)
            y += 1
            y.sum().backward()
            assert x.grad is not None


class TestReduceDtype(DistributedTest):
    world_size = [4, 8]

    def test_sums_are_taken_in_fp32_unless_told_otherwise(self, subtests):
        n = self.world_size
        parts = list(cancelling(n))
        same = [torch.ones_like(part) for part in parts]
        small = [part.chunk(n)[0] for part in same]
        for name, inputs, grads, which in (
            ("copy_to_region", same, parts, 1),
            ("reduce_from_region", parts, same, 0),
            ("gather_sequence", small, parts, 1),
            ("reduce_scatter_sequence", parts, small, 0),
        ):
            with subtests.test(name):
                summed = run_region(self, getattr(mappings, name), inputs, grads)[which]
                assert summed.dtype == torch.bfloat16 and (summed == 1).all()
