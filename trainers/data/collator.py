"""Makes minibatches of tensors out of a batch of samples: packed for kernels with sequence boundaries, or padded.

`MaxTokensPerRankCollator` stands in a data loader of every rank. Each rank packs the whole batch, which costs it a
fraction of a millisecond and no communication, and builds tensors only of its own share. A loader that knows the
lengths beforehand calls `MaxTokensPerRankCollator.collate_share`, which asks for the samples of this rank alone.
"""

import logging
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
import torch

from trainers.data.minibatch import (
    IGNORE_INDEX,
    Minibatch,
    MinibatchCounts,
    PackedMinibatch,
    PaddedMinibatch,
    Sample,
    Tokens,
)
from trainers.data.packing import DUMMY, Lengths, Oversize, Strategy, pack

_log = logging.getLogger(__name__)

DUMMY_SAMPLE: Sample = {
    "input_ids": torch.arange(15, 10, -1),
    "labels": torch.full((5,), IGNORE_INDEX),
    "num_loss_counted_tokens": 0,
}
"""What a rank computes in a step that has nothing for it: five tokens without loss, so that collectives still match."""


class MaxTokensPerRankCollator:
    """Turns a global batch into the minibatches of one rank, none of them above a number of tokens.

    Args:
        max_tokens_per_rank: limit of a minibatch in tokens; in padded tokens for the strategy ``padded``.
        rank: the rank to collate for.
        num_ranks: ranks that share the batch. All of them must be given the same batch in the same order.
        strategy: see `trainers.data.packing`. ``padded`` gives `PaddedMinibatch`, the others `PackedMinibatch`.
        oversize: ``error`` refuses a sample above the limit, ``drop`` leaves it out, counts it in
            ``batch_num_dropped_samples`` and logs a warning on rank 0.
        pad_token_id: id of the padding; needed by ``padded`` alone.
        quadratic: how much the work of a sample grows with the square of its length, see `pack`.

    Raises:
        ValueError: if the rank is not one of ``num_ranks``, or the pad id is missing.
    """

    def __init__(
        self,
        max_tokens_per_rank: int,
        rank: int,
        num_ranks: int,
        strategy: Strategy = "best_fit",
        oversize: Oversize = "error",
        pad_token_id: int | None = None,
        quadratic: float = 0.0,
    ) -> None:
        # Refuses bad arguments before the first batch.
        pack([], max_tokens_per_rank, num_ranks, strategy, oversize, quadratic)
        if not 0 <= rank < num_ranks:
            raise ValueError(f"rank {rank} is not one of num_ranks={num_ranks}: ranks count from 0")
        if strategy == "padded" and (pad_token_id is None or pad_token_id < 0):
            raise ValueError(
                f"pad_token_id={pad_token_id} with strategy='padded': give the tokenizer's pad id, "
                "or its EOS id if it has none"
            )
        self.max_tokens_per_rank = max_tokens_per_rank
        self._rank = rank
        self._num_ranks = num_ranks
        self._strategy = strategy
        self.oversize = oversize
        self._pad_token_id = pad_token_id
        self._quadratic = quadratic

    def __call__(self, batch: Sequence[Sample]) -> list[Minibatch]:
        """Collate this rank's share of the batch.

        Args:
            batch: all samples of the global batch.

        Returns:
            Minibatches, as many as on every other rank and at least one: a dummy where this rank has nothing to
            compute, also when the batch is empty or every sample was dropped.

        Raises:
            ValueError: if a sample is malformed, or above the limit unless ``oversize="drop"``.
        """
        lengths = [len(sample["input_ids"]) for sample in batch]
        return self.collate_share(lengths, [count_loss_tokens(sample) for sample in batch], batch.__getitem__)

    def collate_share(
        self, lengths: Lengths, num_loss_counted_tokens: Lengths, read: Callable[[int], Sample]
    ) -> list[Minibatch]:
        """Collate this rank's share of a batch of which only the sizes are known.

        Args:
            lengths: tokens of each sample of the global batch.
            num_loss_counted_tokens: how many of its tokens carry loss.
            read: gives the sample at a position of the batch; called once for each sample of this rank.

        Returns:
            As for a call, and the same errors.
        """
        packing = pack(
            lengths, self.max_tokens_per_rank, self._num_ranks, self._strategy, self.oversize, self._quadratic
        )
        if packing.dropped and self._rank == 0:
            _log.warning(
                "left out %d of %d samples longer than max_tokens_per_rank=%d",
                len(packing.dropped),
                len(lengths),
                self.max_tokens_per_rank,
            )
        counted = int(np.delete(np.asarray(num_loss_counted_tokens), packing.dropped).sum())
        minibatches: list[Minibatch] = []
        for indices in packing.minibatches[self._rank] or [[DUMMY]]:
            samples = [] if indices == [DUMMY] else [read(index) for index in indices]
            if self._pad_token_id is None or self._strategy != "padded":
                minibatches.append(collate_packed(samples, counted, len(packing.dropped)))
            else:
                minibatches.append(collate_padded(samples, self._pad_token_id, counted, len(packing.dropped)))
        return minibatches


def collate_packed(
    samples: Sequence[Sample], batch_num_loss_counted_tokens: int, batch_num_dropped_samples: int = 0
) -> PackedMinibatch:
    """Concatenate samples into one row; no samples give a dummy.

    Args:
        samples: sequences of this minibatch.
        batch_num_loss_counted_tokens: loss-counted tokens of the whole batch, over all ranks.
        batch_num_dropped_samples: samples left out of the whole batch.

    Raises:
        ValueError: if a sample is malformed or gives a wrong ``num_loss_counted_tokens``.
    """
    ids, labels, lengths = _rows(samples)
    ends = lengths.cumsum(0)
    starts = ends - lengths
    row = torch.cat(labels)
    row[starts] = IGNORE_INDEX
    position_ids = torch.arange(len(row)) - starts.repeat_interleave(lengths)
    cu_seqlens = torch.zeros(len(lengths) + 1, dtype=torch.int32)
    cu_seqlens[1:] = ends
    return {
        "input_ids": torch.cat(ids)[None],
        "labels": row[None],
        "position_ids": position_ids[None],
        "cu_seqlens": cu_seqlens,
        "max_seqlen": int(lengths.max()),
        **_counts(samples, row, batch_num_loss_counted_tokens, batch_num_dropped_samples),
    }


def collate_padded(
    samples: Sequence[Sample],
    pad_token_id: int,
    batch_num_loss_counted_tokens: int,
    batch_num_dropped_samples: int = 0,
) -> PaddedMinibatch:
    """Stack samples as rows padded on the right; no samples give a dummy. Arguments and errors as `collate_packed`."""
    ids, labels, lengths = _rows(samples)
    width = int(lengths.max())
    is_token = torch.arange(width) < lengths[:, None]
    input_ids = torch.full(is_token.shape, pad_token_id)
    input_ids[is_token] = torch.cat(ids)
    padded_labels = torch.full(is_token.shape, IGNORE_INDEX)
    padded_labels[is_token] = torch.cat(labels)
    padded_labels[:, 0] = IGNORE_INDEX
    return {
        "input_ids": input_ids,
        "labels": padded_labels,
        "position_ids": torch.arange(width).expand(is_token.shape).contiguous(),
        "attention_mask": is_token.long(),
        **_counts(samples, padded_labels, batch_num_loss_counted_tokens, batch_num_dropped_samples),
    }


def count_loss_tokens(sample: Sample) -> int:
    """Return the loss-counted tokens that the sample gives, else the number of ``labels[1:]`` that carry loss."""
    given = sample.get("num_loss_counted_tokens")
    if given is not None:
        return given
    return int(torch.count_nonzero(_tensor(sample["labels"])[1:] != IGNORE_INDEX))


def _rows(samples: Sequence[Sample]) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """Return ids, labels and lengths (int64 ``[B]``) of the samples, or of the dummy if there are none."""
    ids, labels = [], []
    for sample in samples or [DUMMY_SAMPLE]:
        ids.append(_tensor(sample["input_ids"]))
        labels.append(_tensor(sample["labels"]))
        if ids[-1].ndim != 1 or ids[-1].shape != labels[-1].shape or not len(ids[-1]):
            raise ValueError(
                f"sample {len(ids) - 1} of a minibatch has input_ids of shape {list(ids[-1].shape)} and labels of "
                f"shape {list(labels[-1].shape)}: both must be [tokens] with the same tokens >= 1"
            )
    return ids, labels, torch.tensor([len(row) for row in ids])


def _counts(
    samples: Sequence[Sample], labels: torch.Tensor, batch_num_loss_counted_tokens: int, batch_num_dropped_samples: int
) -> MinibatchCounts:
    counted = int(torch.count_nonzero(labels != IGNORE_INDEX))
    if any("num_loss_counted_tokens" in sample for sample in samples):
        # The batch's count is the sum of what the samples give: a wrong one would scale every gradient.
        given = [count_loss_tokens(sample) for sample in samples]
        if sum(given) != counted:
            raise ValueError(
                f"the samples of a minibatch give num_loss_counted_tokens={given}, in sum {sum(given)}, but {counted} "
                f"labels carry loss: count labels[1:] != {IGNORE_INDEX} of each sample, or leave the key out"
            )
    return {
        "num_samples": len(samples),
        "num_loss_counted_tokens": counted,
        "batch_num_loss_counted_tokens": batch_num_loss_counted_tokens,
        "batch_num_dropped_samples": batch_num_dropped_samples,
    }


def _tensor(tokens: Tokens) -> torch.Tensor:
    if isinstance(tokens, list) and tokens:
        # Reads a list twice as fast as numpy, which first looks for its type, and nine times as fast as torch.
        with suppress(TypeError):  # numpy says below what is wrong with it
            return torch.frombuffer(array("q", tokens), dtype=torch.int64)
    if not isinstance(tokens, torch.Tensor):
        # Through numpy, because torch warns about arrays that it may not write to.
        values = np.asarray(tokens)
        if values.dtype.kind not in "iu":
            raise ValueError(f"token ids and labels must be integers, got {values.dtype}")
        tokens = torch.from_numpy(np.require(values, np.int64, "W"))
    elif tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise ValueError(f"token ids and labels must be integers, got {tokens.dtype}")
    return tokens.long()
