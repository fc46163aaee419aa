"""What flows from the data to the model: a sample, and a minibatch in its two forms.

Legend: T tokens of all sequences of a minibatch, one after the other; B sequences; L tokens of the longest.
"""

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np
import numpy.typing as npt
import torch

Tokens = torch.Tensor | npt.NDArray[np.integer] | Sequence[int]

IGNORE_INDEX = -100
"""Label of a token that carries no loss."""


class Sample(TypedDict):
    """One sequence before collation.

    Attributes:
        input_ids: ``[tokens]``, integers; an int64 tensor is taken as it is, anything else is converted.
        labels: ``[tokens]``, ``IGNORE_INDEX`` where there is no loss. Not shifted: the loss at token t compares the
            prediction after t - 1 with ``labels[t]``, so ``labels[0]`` never counts.
        num_loss_counted_tokens: how many of ``labels[1:]`` carry loss; counted when it is not given.
    """

    input_ids: Tokens
    labels: Tokens
    num_loss_counted_tokens: NotRequired[int]


class MinibatchCounts(TypedDict):
    """Counts of a minibatch, and of the whole batch that it belongs to.

    Attributes:
        num_samples: sequences in this minibatch; 0 if it is a dummy.
        num_loss_counted_tokens: tokens of this minibatch whose label counts, sequence by sequence.
        batch_num_loss_counted_tokens: the same over all minibatches of all ranks. The loss of a batch is the sum over
            its tokens divided by this. 0 if no sample is left: take no optimizer step.
        batch_num_dropped_samples: samples of the batch that were left out because they are above the limit.
    """

    num_samples: int
    num_loss_counted_tokens: int
    batch_num_loss_counted_tokens: int
    batch_num_dropped_samples: int


class PackedMinibatch(MinibatchCounts):
    """Sequences one after the other in a single row, for attention kernels that take sequence boundaries.

    Attributes:
        input_ids: int64 ``[1, T]``.
        labels: int64 ``[1, T]``. The first label of every sequence is ``IGNORE_INDEX``: a loss that shifts the whole
            row by one would otherwise score it as the prediction of the sequence before.
        position_ids: int64 ``[1, T]``, from 0 again in every sequence.
        cu_seqlens: int32 ``[B + 1]``, where each sequence starts, then T.
        max_seqlen: tokens of the longest sequence, known here without waiting for the device.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor
    cu_seqlens: torch.Tensor
    max_seqlen: int


class PaddedMinibatch(MinibatchCounts):
    """Sequences as rows, padded on the right, for attention with a mask.

    Attributes:
        input_ids: int64 ``[B, L]``, the pad id behind each sequence.
        labels: int64 ``[B, L]``, ``IGNORE_INDEX`` in the padding and in the first column.
        position_ids: int64 ``[B, L]``, the column, also in the padding.
        attention_mask: int64 ``[B, L]``, 1 for a token and 0 for padding.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor
    attention_mask: torch.Tensor


Minibatch = PackedMinibatch | PaddedMinibatch
