"""What a data set of samples is, and a view of a part of one."""

import logging
import math
import os
from fractions import Fraction
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from trainers.data.minibatch import Sample

_log = logging.getLogger(__name__)


class SampleDataset(Protocol):
    """Samples by index, and what a loader must know of all of them without reading any."""

    @property
    def lengths(self) -> npt.NDArray[np.integer]:
        """Tokens of each sample, ``[samples]``."""

    @property
    def num_loss_counted_tokens(self) -> npt.NDArray[np.integer]:
        """How many of ``labels[1:]`` of each sample carry loss, ``[samples]``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class Subset:
    """Some samples of a data set, in a given order.

    Args:
        dataset: the whole.
        indices: which of its samples, int64 ``[samples]``.
    """

    def __init__(self, dataset: SampleDataset, indices: npt.NDArray[np.int64]) -> None:
        self._dataset = dataset
        self.indices = indices
        self.lengths: npt.NDArray[np.integer] = dataset.lengths[indices]
        self.num_loss_counted_tokens: npt.NDArray[np.integer] = dataset.num_loss_counted_tokens[indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self._dataset[int(self.indices[index])]


def split_validation(dataset: SampleDataset, fraction: float, seed: int) -> tuple[Subset, Subset]:
    """Split a data set at random into training and validation samples.

    Args:
        dataset: the whole.
        fraction: of the samples, for validation; in [0, 1).
        seed: non-negative; chooses the samples.

    Returns:
        The training samples and the ``ceil(len(dataset) * fraction)`` validation samples, each in the order of the data
        set. The fraction is the decimal number that was written: 0.07 of 100 samples are 7, although the nearest float
        is above 0.07 and floating-point multiplication would give 8.

    Raises:
        ValueError: if the fraction is outside [0, 1) or leaves nothing to train on.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"validation fraction must be in [0, 1), got {fraction}")
    size = math.ceil(Fraction(str(float(fraction))) * len(dataset))
    if len(dataset) and size == len(dataset):
        raise ValueError(
            f"a validation fraction of {fraction} takes all {size} samples: lower it, or give separate validation data"
        )
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed)).numpy()
    return Subset(dataset, np.sort(order[size:])), Subset(dataset, np.sort(order[:size]))


def samples_that_fit(
    lengths: npt.NDArray[np.integer], max_seq_len: int | None, path: str | os.PathLike[str]
) -> npt.NDArray[np.bool_]:
    """Return which samples of a file have at most ``max_seq_len`` tokens, and log how many have more."""
    fits = lengths <= (max_seq_len or np.inf)
    if not fits.all():
        _log.warning(
            "left out %d of %d samples of %s longer than max_seq_len=%d",
            np.count_nonzero(~fits),
            len(fits),
            path,
            max_seq_len,
        )
    return fits
