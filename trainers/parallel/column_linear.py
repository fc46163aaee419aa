"""A linear layer whose output features are spread over the tensor parallel ranks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from trainers.parallel.mappings import copy_to_region, gather_from_region, gather_sequence
from trainers.parallel.mesh import tensor_parallel_group
from trainers.parallel.sharding import (
    Initializer,
    copy_shard,
    draw_full,
    inverse_permutation,
    linear_bias,
    linear_weight,
    shard_index,
)


class ColumnParallelLinear(nn.Module):
    """``y = x W^T + b`` with the rows of ``W`` (its outputs) split over ``tp`` ranks (arXiv 1909.08053, section 3).

    The input is cast to the dtype of the weight, in which the product is taken and returned. The input's gradient is
    the sum of the ranks' partial gradients, taken in ``reduce_dtype``.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the last dimension of the whole output; must divide by ``tp``.
        mesh: has a dimension ``tp``.
        bias: add a learned bias.
        gather_output: return the whole output on every rank; the bias is then whole too, and replicated.
        sequence_parallel: the input is (S / tp, B, in) and is gathered to (S, B, in) first.
        stride: number of equal weights fused along the output, such as 2 for [gate; up]; this rank holds its part of
            each. A gathered output is in the order of the whole weight.
        reduce_dtype: dtype in which gradients are summed over ranks.
        init_weight: fills the whole fp32 weight (out, in); default as ``torch.nn.Linear``.
        device: where the parameters live; on ``meta`` nothing is drawn.
        dtype: of the parameters.

    Raises:
        ValueError: sizes that do not divide, or ``gather_output`` together with ``sequence_parallel``.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        mesh: DeviceMesh,
        *,
        bias: bool = True,
        gather_output: bool = False,
        sequence_parallel: bool = False,
        stride: int = 1,
        reduce_dtype: torch.dtype = torch.float32,
        init_weight: Initializer = linear_weight,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make this rank's parameters and draw their initial values."""
        super().__init__()
        if gather_output and sequence_parallel:
            raise ValueError(
                "gather_output=True with sequence_parallel=True: what follows takes features that are split, or "
                "a sequence that is; set one of them to False"
            )
        group = tensor_parallel_group(mesh)
        self.in_features, self.out_features, self.stride = in_features, out_features, stride
        self.mesh, self.gather_output, self.sequence_parallel = mesh, gather_output, sequence_parallel
        self.reduce_dtype, self.init_weight = reduce_dtype, init_weight
        self.local_out_features = shard_index(out_features, group.size(), 0, stride=stride).numel()
        self.weight = nn.Parameter(torch.empty(self.local_out_features, in_features, device=device, dtype=dtype))
        bias_features = out_features if gather_output else self.local_out_features
        self.bias = nn.Parameter(torch.empty(bias_features, device=device, dtype=dtype)) if bias else None
        if not self.weight.is_meta:
            self.reset_parameters()

    def output_index(self) -> Tensor:
        """Output features of the whole layer that this rank holds, in its order: int64, shape (out / tp,)."""
        group = tensor_parallel_group(self.mesh)
        return shard_index(self.out_features, group.size(), group.rank(), stride=self.stride)

    def reset_parameters(self) -> None:
        """Draw the whole layer in fp32 on the CPU and keep this rank's part: values do not depend on ``tp``."""
        weight = draw_full((self.out_features, self.in_features), self.init_weight)
        bias = None if self.bias is None else draw_full((self.out_features,), linear_bias(self.in_features))
        self.load_full(weight, bias)

    def load_full(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Take this rank's part of a whole layer.

        Args:
            weight: shape (out, in).
            bias: shape (out,), or None for a layer without bias.

        Raises:
            ValueError: a shape that does not fit, or a bias where there is none, or none where there is one.
        """
        if (bias is None) != (self.bias is None):
            raise ValueError(f"the layer has bias={self.bias is not None}, but what is loaded has {bias is not None}")
        index = self.output_index()
        copy_shard(self.weight, weight, 0, index)
        if self.bias is not None and bias is not None:
            copy_shard(
                self.bias, bias, 0, torch.arange(self.out_features, device="cpu") if self.gather_output else index
            )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            x: (..., in), the same on every rank; with sequence parallelism (S / tp, B, in).

        Returns:
            (..., out / tp), or (..., out) if gathered; with sequence parallelism (S, B, out / tp).
        """
        if x.shape[-1] != self.in_features:
            raise ValueError(f"input of shape {tuple(x.shape)} must end in in_features={self.in_features}")
        group = tensor_parallel_group(self.mesh)
        x = x.to(self.weight.dtype)
        enter = gather_sequence if self.sequence_parallel else copy_to_region
        x = enter(x, group, self.reduce_dtype)
        if not self.gather_output:
            return F.linear(x, self.weight, self.bias)
        y = gather_from_region(F.linear(x, self.weight), group)
        if self.stride > 1 and group.size() > 1:
            held = [shard_index(self.out_features, group.size(), r, stride=self.stride) for r in range(group.size())]
            y = y.index_select(-1, inverse_permutation(torch.cat(held)).to(y.device))
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        """The whole layer's sizes and what is special about it, for ``print``."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"gather_output={self.gather_output}, sequence_parallel={self.sequence_parallel}, stride={self.stride}"
        )
