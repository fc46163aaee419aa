"""A linear layer whose weight is kept as its singular value decomposition, the largest directions frozen.

Orthogonal subspace fine-tuning (OSFT, "Sculpting Subspaces", arXiv 2504.07097, section 3) writes a weight as

    W = U_high diag(S_high) V_high^T + U_low diag(S_low) V_low^T

with the k largest singular values in the first term, which is frozen, and the others in the second, which is trained
while its directions are kept orthogonal to the frozen ones (osft_projection.py).
"""

from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from trainers.optim.full_precision import full_precision


class Factors(NamedTuple):
    """A thin singular value decomposition ``W = u diag(s) v^T``, singular values in descending order."""

    u: Tensor  # (out, r)
    s: Tensor  # (r,)
    v: Tensor  # (in, r)


class OsftLinear(nn.Module):
    """``y = x W^T + b`` with ``W`` (out, in) in factors; a drop-in for ``nn.Linear`` and for transformers' ``Conv1D``.

    With r = min(out, in) and l = r - k, the parameters are ``U_high`` (out, k), ``S_high`` (k,), ``V_high`` (in, k),
    which require no gradient, and ``U_low`` (out, l), ``S_low`` (l,), ``V_low`` (in, l), which do. They are parameters
    all of them so that FSDP2 shards the frozen ones as well; and both V hold their vectors as columns, so that U and V
    are sharded along the axis that projections sum over.

    The product is never multiplied out: r (out + in) multiplications a token instead of out * in, but none for
    gradients of the frozen part, and no dense weight is held until the backward pass.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        rank_high: k, frozen directions, from 1 to r - 1.
        bias: the dense layer's, which stays the parameter it was, or None.
        transposed: the dense weight is stored (in, out), as ``Conv1D`` does.
        device: where the factors live; their values are undefined until :meth:`load_factors`.
        dtype: of the factors.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank_high: int,
        bias: nn.Parameter | None,
        *,
        transposed: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        rank_low = min(in_features, out_features) - rank_high
        assert rank_high > 0 and rank_low > 0, "without one of the two parts the layer stays dense"
        self.in_features, self.out_features, self.transposed = in_features, out_features, transposed

        def factor(*shape: int, trained: bool) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype), requires_grad=trained)

        self.U_high = factor(out_features, rank_high, trained=False)
        self.S_high = factor(rank_high, trained=False)
        self.V_high = factor(in_features, rank_high, trained=False)
        self.U_low = factor(out_features, rank_low, trained=True)
        self.S_low = factor(rank_low, trained=True)
        self.V_low = factor(in_features, rank_low, trained=True)
        self.bias = bias

    @classmethod
    def in_place_of(cls, layer: nn.Linear | Conv1D, rank_high: int) -> Self:
        """A layer of the sizes, bias, dtype and device of ``layer``, its factors undefined."""
        transposed = isinstance(layer, Conv1D)
        out_features, in_features = reversed(layer.weight.shape) if transposed else layer.weight.shape
        return cls(
            in_features,
            out_features,
            rank_high,
            layer.bias,
            transposed=transposed,
            device=layer.weight.device,
            dtype=layer.weight.dtype,
        )

    @property
    def rank_high(self) -> int:
        """k: frozen directions."""
        return self.S_high.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: (..., in) -> (..., out)."""
        high = F.linear((x @ self.V_high) * self.S_high, self.U_high)
        return high + F.linear((x @ self.V_low) * self.S_low, self.U_low, self.bias)

    @torch.no_grad()
    @full_precision()
    def dense_weight(self) -> Tensor:
        """The weight multiplied out, in the layout of the layer it replaces; a DTensor if the factors are."""
        weight = (self.U_high * self.S_high) @ self.V_high.mT + (self.U_low * self.S_low) @ self.V_low.mT
        return weight.mT if self.transposed else weight

    def split(self, factors: Factors) -> list[tuple[nn.Parameter, Tensor]]:
        """Pair each parameter with its part of a whole decomposition."""
        k = self.rank_high
        u, s, v = factors
        return [
            (self.U_high, u[:, :k]),
            (self.S_high, s[:k]),
            (self.V_high, v[:, :k]),
            (self.U_low, u[:, k:]),
            (self.S_low, s[k:]),
            (self.V_low, v[:, k:]),
        ]

    def extra_repr(self) -> str:
        """Sizes and ranks, for ``print``."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"rank_high={self.rank_high}, rank_low={self.S_low.shape[0]}"
        )


def osft_layers(model: nn.Module) -> dict[str, OsftLinear]:
    """All OSFT layers of a model by name, in its order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, OsftLinear)}
