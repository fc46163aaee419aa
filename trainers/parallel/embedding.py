"""A token embedding whose vocabulary is spread over the tensor parallel ranks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from trainers.parallel.collectives import all_gather, require_divisible
from trainers.parallel.mappings import reduce_from_region, reduce_scatter_sequence
from trainers.parallel.mesh import tensor_parallel_group
from trainers.parallel.sharding import Initializer, copy_shard, draw_full, shard_index


class ParallelEmbedding(nn.Module):
    """Rank r holds the r-th contiguous block of rows and looks up the ids that fall into it.

    Other ids give zeros, so that the sum over ranks, exact in any dtype, is the embedding (Megatron-LM: arXiv
    1909.08053, section 3).

    Args:
        num_embeddings: size of the vocabulary; must divide by ``tp``.
        embedding_dim: size of an embedding.
        mesh: has a dimension ``tp``.
        padding_idx: id whose row starts as zeros and gets no gradient; negative counts from the end.
        sequence_parallel: leave the output sharded in sequence, (S / tp, B, embedding_dim).
        init_weight: fills the whole fp32 weight; default as ``torch.nn.Embedding``: standard normal.
        device: where the weight lives; on ``meta`` nothing is drawn.
        dtype: of the weight.

    Raises:
        ValueError: the vocabulary does not divide by ``tp``, or has no ``padding_idx``.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        mesh: DeviceMesh,
        *,
        padding_idx: int | None = None,
        sequence_parallel: bool = False,
        init_weight: Initializer = nn.init.normal_,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make this rank's rows and draw their initial values."""
        super().__init__()
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(f"padding_idx={padding_idx} lies outside the vocabulary of {num_embeddings}")
            padding_idx %= num_embeddings
        rows = require_divisible(num_embeddings, tensor_parallel_group(mesh).size(), "num_embeddings")
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        self.mesh, self.sequence_parallel, self.init_weight = mesh, sequence_parallel, init_weight
        self.weight = nn.Parameter(torch.empty(rows, embedding_dim, device=device, dtype=dtype))
        if not self.weight.is_meta:
            self.reset_parameters()

    def row_index(self) -> Tensor:
        """Ids whose rows this rank holds, in its order: int64, shape (num_embeddings / tp,)."""
        group = tensor_parallel_group(self.mesh)
        return shard_index(self.num_embeddings, group.size(), group.rank())

    def reset_parameters(self) -> None:
        """Draw the whole weight in fp32 on the CPU and keep this rank's rows: values do not depend on ``tp``."""
        weight = draw_full((self.num_embeddings, self.embedding_dim), self.init_weight)
        if self.padding_idx is not None:
            weight[self.padding_idx] = 0
        self.load_full(weight)

    def load_full(self, weight: Tensor) -> None:
        """Take this rank's rows of the whole weight, shape (num_embeddings, embedding_dim).

        Raises:
            ValueError: a shape that does not fit.
        """
        copy_shard(self.weight, weight, 0, self.row_index())

    def forward(self, ids: Tensor) -> Tensor:
        """Look ids up.

        Args:
            ids: integers in [0, num_embeddings), (B, S) or any shape, the same on every rank.

        Returns:
            (B, S, embedding_dim); with sequence parallelism (S / tp, B, embedding_dim).

        Raises:
            ValueError: with sequence parallelism, ``ids`` is not (B, S) or S does not divide by ``tp``. On a CPU also
                an id outside the vocabulary, of which an accelerator learns only while it computes.
        """
        if self.sequence_parallel and ids.dim() != 2:
            raise ValueError(f"with sequence_parallel=True ids must be (B, S), got shape {tuple(ids.shape)}")
        outside = (ids < 0) | (ids >= self.num_embeddings)
        if ids.device.type == "cpu" and outside.any():
            raise ValueError(
                f"ids {ids[outside].unique().tolist()} lie outside the vocabulary of {self.num_embeddings}"
            )
        group = tensor_parallel_group(self.mesh)
        rows = self.weight.shape[0]
        first = group.rank() * rows
        held = (ids >= first) & (ids < first + rows)
        # An id outside the vocabulary stays outside this rank's rows, so that the device reports it as torch's does.
        local = torch.where(held | outside, ids - first, 0)
        holds_padding = self.padding_idx is not None and first <= self.padding_idx < first + rows
        padding = self.padding_idx - first if self.padding_idx is not None and holds_padding else None
        found = F.embedding(local, self.weight, padding_idx=padding).masked_fill(~held.unsqueeze(-1), 0)
        if self.sequence_parallel:
            return reduce_scatter_sequence(found.transpose(0, 1), group, found.dtype)
        return reduce_from_region(found, group, found.dtype)

    @torch.no_grad()
    def resize(self, num_embeddings: int) -> None:
        """Grow or shrink the vocabulary; collective: every tensor parallel rank calls it.

        Every id that stays keeps the values of its row. Where the number of rows per rank changes, rows move to the
        ranks that now hold their ids. New rows are drawn as initial ones are. ``weight`` becomes a new parameter: tie
        weights that were tied to it, and make the optimizer, afterwards.

        Args:
            num_embeddings: the new size; must divide by ``tp``.

        Raises:
            ValueError: it does not divide, or is not positive, or leaves out ``padding_idx``.
        """
        group = tensor_parallel_group(self.mesh)
        if num_embeddings < 1 or (self.padding_idx is not None and self.padding_idx >= num_embeddings):
            raise ValueError(f"cannot resize to num_embeddings={num_embeddings} with padding_idx={self.padding_idx}")
        rows = require_divisible(num_embeddings, group.size(), "num_embeddings")
        weight = all_gather(self.weight, 0, group)[:num_embeddings]
        if num_embeddings > self.num_embeddings:
            fresh = draw_full((num_embeddings - self.num_embeddings, self.embedding_dim), self.init_weight)
            weight = torch.cat([weight, fresh.to(weight)])
        self.num_embeddings = num_embeddings
        # Not new data for the old parameter: autograd remembers the shape of a parameter that it has seen.
        self.weight = nn.Parameter(weight.new_empty(rows, self.embedding_dim), requires_grad=self.weight.requires_grad)
        self.load_full(weight)

    def extra_repr(self) -> str:
        """The whole layer's sizes and what is special about it, for ``print``."""
        return (
            f"num_embeddings={self.num_embeddings}, embedding_dim={self.embedding_dim}, "
            f"padding_idx={self.padding_idx}, sequence_parallel={self.sequence_parallel}"
        )
