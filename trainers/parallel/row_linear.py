"""A linear layer whose input features are spread over the tensor parallel ranks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from trainers.parallel.collectives import require_divisible
from trainers.parallel.mappings import copy_to_region, reduce_from_region, reduce_scatter_sequence, scatter_to_region
from trainers.parallel.mesh import tensor_parallel_group
from trainers.parallel.sharding import Initializer, copy_shard, draw_full, linear_bias, linear_weight, shard_index


class RowParallelLinear(nn.Module):
    """``y = x W^T + b`` with the columns of ``W`` (its inputs) split over ``tp`` ranks (arXiv 1909.08053, section 3).

    The input is cast to the dtype of the weight. The ranks' partial products are summed in ``reduce_dtype`` and cast
    back; then the bias, which every rank holds whole, is added once.

    Args:
        in_features: size of the last dimension of the whole input; must divide by ``tp``.
        out_features: size of the last dimension of the output.
        mesh: has a dimension ``tp``.
        bias: add a learned bias.
        input_is_parallel: the input's last dimension is already this rank's part (as ``ColumnParallelLinear`` leaves
            it); False takes the whole input and keeps this rank's part of it.
        sequence_parallel: leave the output sharded in sequence, (S / tp, B, out); needs ``input_is_parallel``.
        input_order: which input feature of the whole layer stands at each position of the joined ranks' inputs, int64
            of shape (in,): the permutation that a grouped-query projection leaves. None is the natural order.
        reduce_dtype: dtype in which partial products are summed over ranks.
        init_weight: fills the whole fp32 weight (out, in); default as ``torch.nn.Linear``.
        device: where the parameters live; on ``meta`` nothing is drawn.
        dtype: of the parameters.

    Raises:
        ValueError: sizes that do not divide; ``sequence_parallel`` or ``input_order`` without ``input_is_parallel``; an
            ``input_order`` that is no permutation.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        mesh: DeviceMesh,
        *,
        bias: bool = True,
        input_is_parallel: bool = True,
        sequence_parallel: bool = False,
        input_order: Tensor | None = None,
        reduce_dtype: torch.dtype = torch.float32,
        init_weight: Initializer = linear_weight,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make this rank's parameters and draw their initial values."""
        super().__init__()
        if not input_is_parallel and (sequence_parallel or input_order is not None):
            option = "sequence_parallel=True" if sequence_parallel else "input_order"
            raise ValueError(f"{option} needs input_is_parallel=True: the input must arrive split over its features")
        if input_order is not None and not torch.equal(
            input_order.sort().values.cpu(), torch.arange(in_features, device="cpu")
        ):
            raise ValueError(f"input_order must be a permutation of the {in_features} input features")
        group = tensor_parallel_group(mesh)
        self.in_features, self.out_features, self.input_order = in_features, out_features, input_order
        self.mesh, self.input_is_parallel, self.sequence_parallel = mesh, input_is_parallel, sequence_parallel
        self.reduce_dtype, self.init_weight = reduce_dtype, init_weight
        self.local_in_features = require_divisible(in_features, group.size(), "in_features")
        self.weight = nn.Parameter(torch.empty(out_features, self.local_in_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None
        if not self.weight.is_meta:
            self.reset_parameters()

    def input_index(self) -> Tensor:
        """Input features of the whole layer that this rank takes, in its order: int64, shape (in / tp,)."""
        group = tensor_parallel_group(self.mesh)
        index = shard_index(self.in_features, group.size(), group.rank())
        return index if self.input_order is None else self.input_order.cpu()[index]

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
        copy_shard(self.weight, weight, 1, self.input_index())
        if self.bias is not None and bias is not None:
            copy_shard(self.bias, bias, 0, torch.arange(self.out_features, device="cpu"))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            x: (..., in / tp), or (..., in), the same on every rank, unless ``input_is_parallel``.

        Returns:
            (..., out), the same on every rank; with sequence parallelism (S / tp, B, out).
        """
        expected = self.local_in_features if self.input_is_parallel else self.in_features
        if x.shape[-1] != expected:
            raise ValueError(
                f"input of shape {tuple(x.shape)} must end in {expected}: in_features={self.in_features} with "
                f"input_is_parallel={self.input_is_parallel}"
            )
        group = tensor_parallel_group(self.mesh)
        x = x.to(self.weight.dtype)
        if not self.input_is_parallel:
            x = scatter_to_region(x, group)
        leave = reduce_scatter_sequence if self.sequence_parallel else reduce_from_region
        y = leave(F.linear(x, self.weight), group, self.reduce_dtype)
        if self.bias is None:
            return y
        # A sequence-sharded output gives each rank the bias gradient of its own part of the sequence only.
        return y + (copy_to_region(self.bias, group, self.reduce_dtype) if self.sequence_parallel else self.bias)

    def extra_repr(self) -> str:
        """The whole layer's sizes and what is special about it, for ``print``."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"input_is_parallel={self.input_is_parallel}, sequence_parallel={self.sequence_parallel}"
        )
