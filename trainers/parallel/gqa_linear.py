"""Query, key and value projections of grouped-query attention; too few key-value heads for the ranks are copied."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from trainers.parallel.gqa_layout import GQALayout
from trainers.parallel.kv_copies import require_kv_mesh, require_tp_size, sum_copies
from trainers.parallel.mappings import copy_to_region, gather_from_region, gather_sequence
from trainers.parallel.mesh import tensor_parallel_group
from trainers.parallel.sharding import Initializer, copy_shard, draw_full, head_rows, linear_bias, linear_weight

Parts = tuple[Tensor, Tensor, Tensor]


class GQAQKVColumnParallelLinear(nn.Module):
    """Three column parallel projections of one input; each rank holds the heads that ``layout`` gives it.

    The outputs of a rank fit together: its first g query heads attend its first key-value head, and so on (legend in
    `gqa_layout.py`). Gradients of key and value parameters are summed, in ``reduce_dtype``, over all copies of a head,
    so copies that start alike stay alike. The output projection that follows is a ``RowParallelLinear`` with
    ``input_order=layer.query_feature_order()``.

    Args:
        in_features: size of the last dimension of the input.
        layout: heads per rank; its ``tp_size`` is the size of the dimension ``tp`` of ``mesh``.
        head_dim: features of one head.
        mesh: has a dimension ``tp``.
        kv_mesh: from ``build_kv_mesh(mesh, layout)``; None where no two ranks share a key-value head.
        fuse_qkv: one parameter ``weight_qkv``, rows [q; k; v] of this rank, and one product, instead of ``weight_q``,
            ``weight_k`` and ``weight_v``; biases likewise.
        bias: add learned biases.
        gather_output: return whole outputs on every rank, heads in natural order and each key-value head once; the
            biases are then whole too, and replicated.
        sequence_parallel: the input is (S / tp, B, in) and is gathered to (S, B, in) first.
        reduce_dtype: dtype in which gradients are summed over ranks.
        init_weight: fills each whole fp32 weight; default as ``torch.nn.Linear``.
        device: where the parameters live; on ``meta`` nothing is drawn.
        dtype: of the parameters.

    Raises:
        ValueError: ``layout`` or ``kv_mesh`` was made for other ranks, or ``gather_output`` together with
            ``sequence_parallel``.
    """

    def __init__(
        self,
        in_features: int,
        layout: GQALayout,
        head_dim: int,
        mesh: DeviceMesh,
        *,
        kv_mesh: DeviceMesh | None = None,
        fuse_qkv: bool = False,
        bias: bool = True,
        gather_output: bool = False,
        sequence_parallel: bool = False,
        reduce_dtype: torch.dtype = torch.float32,
        init_weight: Initializer = linear_weight,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make this rank's parameters and draw their initial values."""
        super().__init__()
        if gather_output and sequence_parallel:
            raise ValueError("gather_output=True with sequence_parallel=True: set one of them to False")
        group = tensor_parallel_group(mesh)
        require_tp_size(layout, group)
        require_kv_mesh(layout, group, kv_mesh)
        self.in_features, self.layout, self.head_dim = in_features, layout, head_dim
        self.mesh, self.kv_mesh = mesh, kv_mesh
        self.fuse_qkv, self.has_bias = fuse_qkv, bias
        self.gather_output, self.sequence_parallel = gather_output, sequence_parallel
        self.reduce_dtype, self.init_weight = reduce_dtype, init_weight
        kv_rows = layout.slots_per_rank * head_dim
        self.local_sizes = (kv_rows * layout.queries_per_slot, kv_rows, kv_rows)
        """Output features of q, k and v on this rank."""
        kv_features = layout.num_kv_heads * head_dim
        self.output_sizes = (layout.num_heads * head_dim, kv_features, kv_features)
        """Output features of the whole q, k and v, without copies."""
        bias_sizes = self.output_sizes if gather_output else self.local_sizes
        names = ("qkv",) if fuse_qkv else ("q", "k", "v")
        for name, rows, bias_rows in zip(
            names,
            (sum(self.local_sizes),) if fuse_qkv else self.local_sizes,
            (sum(bias_sizes),) if fuse_qkv else bias_sizes,
            strict=True,
        ):
            weight = nn.Parameter(torch.empty(rows, in_features, device=device, dtype=dtype))
            self.register_parameter(f"weight_{name}", weight)
            self.register_parameter(
                f"bias_{name}", nn.Parameter(torch.empty(bias_rows, device=device, dtype=dtype)) if bias else None
            )
        if not weight.is_meta:
            self.reset_parameters()

    def output_index(self) -> Parts:
        """Output features of the whole q, k and v that this rank holds, in its order: int64, 1-D each."""
        rank = tensor_parallel_group(self.mesh).rank()
        kv = head_rows(self.layout.kv_heads(rank), self.head_dim)
        return head_rows(self.layout.query_heads(rank), self.head_dim), kv, kv

    def query_feature_order(self) -> Tensor:
        """Query feature at each position of the ranks' queries joined: int64, shape (H * head_dim,)."""
        return head_rows(self.layout.query_order(), self.head_dim)

    def reset_parameters(self) -> None:
        """Draw whole layers in fp32 on the CPU, q then k then v, and keep this rank's part of each."""
        weights, biases = [], []
        for size in self.output_sizes:
            weights.append(draw_full((size, self.in_features), self.init_weight))
            if self.has_bias:
                biases.append(draw_full((size,), linear_bias(self.in_features)))
        self.load_full((weights[0], weights[1], weights[2]), (biases[0], biases[1], biases[2]) if biases else None)

    def load_full(self, weights: Parts, biases: Parts | None = None) -> None:
        """Take this rank's part of whole layers, without copies of heads.

        Args:
            weights: of q (H * head_dim, in), k and v (K * head_dim, in each).
            biases: of q, k and v, 1-D, or None for a layer without bias.

        Raises:
            ValueError: a shape that does not fit, or biases where there are none, or none where there are.
        """
        if (biases is None) == self.has_bias:
            raise ValueError(f"the layer has bias={self.has_bias}, but what is loaded has {biases is not None}")
        whole = tuple(torch.arange(size, device="cpu") for size in self.output_sizes)
        index = self.output_index()
        for full, part, rows in zip(weights, self._parts("weight"), index, strict=True):
            copy_shard(part, full, 0, rows)
        if biases is not None:
            for full, part, rows in zip(
                biases, self._parts("bias"), whole if self.gather_output else index, strict=True
            ):
                copy_shard(part, full, 0, rows)

    def _parts(self, kind: str) -> Parts:
        """The weights or biases of q, k and v; views where they are fused."""
        if not self.fuse_qkv:
            return getattr(self, f"{kind}_q"), getattr(self, f"{kind}_k"), getattr(self, f"{kind}_v")
        sizes = self.output_sizes if kind == "bias" and self.gather_output else self.local_sizes
        q, k, v = getattr(self, f"{kind}_qkv").split(sizes)
        return q, k, v

    def forward(self, x: Tensor) -> Parts:
        """Apply the layer.

        Args:
            x: (..., in), the same on every rank; with sequence parallelism (S / tp, B, in).

        Returns:
            q (..., n * g * head_dim), k and v (..., n * head_dim each) of this rank's heads; gathered
            (..., H * head_dim) and (..., K * head_dim each). With sequence parallelism ``...`` is S, B.
        """
        if x.shape[-1] != self.in_features:
            raise ValueError(f"input of shape {tuple(x.shape)} must end in in_features={self.in_features}")
        group = tensor_parallel_group(self.mesh)
        weights = self._with_summed_copies("weight", group.rank())
        biases = self._with_summed_copies("bias", group.rank()) if self.has_bias and not self.gather_output else None
        enter = gather_sequence if self.sequence_parallel else copy_to_region
        x = enter(x.to(weights[0].dtype), group, self.reduce_dtype)
        outputs = [F.linear(x, weight, biases[i] if biases else None) for i, weight in enumerate(weights)]
        q, k, v = outputs[0].split(self.local_sizes, dim=-1) if self.fuse_qkv else outputs
        if not self.gather_output:
            return q, k, v
        natural = head_rows(self.layout.inverse_query_order(), self.head_dim).to(x.device)
        once = head_rows(self.layout.first_slots(), self.head_dim).to(x.device)
        q = gather_from_region(q, group).index_select(-1, natural)
        k = gather_from_region(k, group).index_select(-1, once)
        v = gather_from_region(v, group).index_select(-1, once)
        if self.has_bias:
            bias_q, bias_k, bias_v = self._parts("bias")
            q, k, v = q + bias_q, k + bias_k, v + bias_v
        return q, k, v

    def _with_summed_copies(self, kind: str, rank: int) -> list[Tensor]:
        """The parameters as they are stored, their key-value gradients summed over copies."""

        def summed(name: str, first_row: int = 0) -> Tensor:
            parameter = getattr(self, f"{kind}_{name}")
            return sum_copies(
                parameter, self.layout, rank, self.kv_mesh, first_row=first_row, reduce_dtype=self.reduce_dtype
            )

        if self.fuse_qkv:
            return [summed("qkv", first_row=self.local_sizes[0])]
        return [getattr(self, f"{kind}_q"), summed("k"), summed("v")]

    def extra_repr(self) -> str:
        """The whole layer's sizes and what is special about it, for ``print``."""
        return (
            f"in_features={self.in_features}, head_dim={self.head_dim}, layout={self.layout}, "
            f"fuse_qkv={self.fuse_qkv}, bias={self.has_bias}, gather_output={self.gather_output}, "
            f"sequence_parallel={self.sequence_parallel}"
        )
