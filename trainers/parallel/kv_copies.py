"""Copies of key-value heads on several ranks: one parameter in truth, so their gradients are summed."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh

from trainers.parallel.collectives import all_reduce
from trainers.parallel.gqa_layout import GQALayout
from trainers.parallel.mesh import tensor_parallel_group


def build_kv_mesh(mesh: DeviceMesh, layout: GQALayout) -> DeviceMesh:
    """Group the ranks that hold copies of the same key-value heads; collective: every rank calls it, once per layout.

    Args:
        mesh: the whole mesh, of all ranks, with a dimension ``tp``.
        layout: decides which tensor parallel ranks belong together.

    Returns:
        A mesh of one dimension, ``kv``: the ranks that share key-value heads with this one.

    Raises:
        ValueError: ``mesh`` does not hold all ranks, or its ``tp`` is not that of the layout.
    """
    if mesh.size() != dist.get_world_size():
        raise ValueError(
            f"mesh holds {mesh.size()} of {dist.get_world_size()} ranks: pass the whole mesh, since every rank takes "
            "part in making every group"
        )
    require_tp_size(layout, tensor_parallel_group(mesh))
    names = mesh.mesh_dim_names
    assert names is not None, "a mesh with a dimension tp has names"
    rows = mesh.mesh.movedim(names.index("tp"), -1).reshape(-1, layout.tp_size)
    groups = torch.tensor(layout.shared_groups(), device="cpu")
    ranks = rows.cpu()[:, groups].flatten(0, 1)
    return DeviceMesh(mesh.device_type, ranks, mesh_dim_names=("kv_groups", "kv"))["kv"]


def require_tp_size(layout: GQALayout, group: ProcessGroup) -> None:
    """Check that a layout was made for this tensor parallel group.

    Raises:
        ValueError: it was made for another number of ranks.
    """
    if layout.tp_size != group.size():
        raise ValueError(f"layout was made for tp_size={layout.tp_size}, but the mesh has tp={group.size()}")


def require_kv_mesh(layout: GQALayout, group: ProcessGroup, kv_mesh: DeviceMesh | None) -> None:
    """Check that ``kv_mesh`` groups the ranks of tensor parallel ``group`` as ``layout`` does.

    Raises:
        ValueError: it groups other ranks, or it is missing where ranks share heads.
    """
    expected = [dist.get_global_rank(group, rank) for rank in layout.shared_group(group.rank())]
    if kv_mesh is None and len(expected) == 1:
        return
    actual = None if kv_mesh is None else kv_mesh.mesh.flatten().tolist()
    if actual != expected:
        raise ValueError(
            f"kv_mesh holds ranks {actual}, but in the {layout.order} layout this rank shares its key-value heads with "
            f"ranks {expected}: pass kv_mesh=build_kv_mesh(mesh, layout)"
        )


class _SumCopies(Function):
    @staticmethod
    def forward(
        ctx: Any,
        parameter: Tensor,
        layout: GQALayout,
        rank: int,
        group: ProcessGroup | None,
        first_row: int,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.layout, ctx.rank, ctx.group, ctx.first_row, ctx.dtype = layout, rank, group, first_row, dtype
        return parameter.view_as(parameter)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        rest, copies = grad[: ctx.first_row], grad[ctx.first_row :]
        held, heads = ctx.layout.kv_heads(ctx.rank), ctx.layout.shared_heads(ctx.rank)
        if held == heads:
            # The usual case: ranks that share heads hold the same ones, each once.
            assert ctx.group is not None, "copies of a head that is held once are on other ranks"
            summed = all_reduce(copies, ctx.group, ctx.dtype)
        else:
            # A rank may hold a head twice, and others only some of its heads: sum by head, then hand each copy its sum.
            parts = 1 if ctx.first_row == 0 else 2
            slots = copies.reshape(parts, len(held), -1).to(ctx.dtype)
            index = torch.tensor([heads.index(head) for head in held], device=grad.device)
            sums = slots.new_zeros(parts, len(heads), slots.shape[-1]).index_add_(1, index, slots)
            if ctx.group is not None:
                sums = all_reduce(sums, ctx.group)
            summed = sums.index_select(1, index).to(grad.dtype).view_as(copies)
        return torch.cat([rest, summed]) if ctx.first_row else summed, None, None, None, None, None


def sum_copies(
    parameter: Tensor,
    layout: GQALayout,
    rank: int,
    kv_mesh: DeviceMesh | None,
    *,
    first_row: int = 0,
    reduce_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """``parameter`` itself, whose gradient is summed over all copies of the same key-value head.

    Args:
        parameter: weight or bias of the key or value projection of this rank, rows (n * head_dim, ...), or with
            ``first_row`` of the fused projection [q; k; v].
        layout: where the copies are.
        rank: this tensor parallel rank.
        kv_mesh: from :func:`build_kv_mesh`; None where no other rank holds a copy.
        first_row: where the rows of k begin in a fused parameter, followed by as many of v; 0 if it is not fused.
        reduce_dtype: dtype of the sum.
    """
    if layout.kv_size_multiplier == 1:
        return parameter
    group = None if kv_mesh is None else kv_mesh.get_group()
    result = _SumCopies.apply(parameter, layout, rank, group, first_row, reduce_dtype)  # type: ignore[no-untyped-call]
    assert isinstance(result, Tensor)
    return result
