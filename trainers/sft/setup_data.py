"""The data of a training: files, loaders, number of steps."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainers.data.arrow_dataset import ArrowDataset
from trainers.data.dataset import SampleDataset, split_validation
from trainers.data.jsonl_dataset import JsonlDataset
from trainers.data.loader import BatchLoader, get_data_loader
from trainers.data.pretraining_blocks import PretrainingBlocks
from trainers.data.sampler import EpochSampler, InfiniteSampler, epoch_order
from trainers.sft.config import ARROW, BLOCKS, TrainConfig
from trainers.sft.worker import Worker


def read_data(config: TrainConfig, pad_token_id: int) -> tuple[SampleDataset, SampleDataset | None]:
    """Open the training data and the validation data, if any.

    Raises:
        ValueError: if a file is not what it must be, or no sample of it carries loss.
    """

    def read(path: Path) -> SampleDataset:
        if path.suffix == BLOCKS:
            return PretrainingBlocks(path, pad_token_id)
        if path.suffix == ARROW:
            return ArrowDataset(path, config.max_seq_len)
        return JsonlDataset(path, config.max_seq_len, config.on_bad_line)

    data = read(config.data)
    validation: SampleDataset | None = None
    if config.validation_data:
        validation = read(config.validation_data)
    elif config.validation_fraction:
        data, validation = split_validation(data, config.validation_fraction, config.seed)
    _check_loss(config, config.data, "training", data)
    if validation is not None:
        _check_loss(config, config.validation_data or config.data, "validation", validation)
    return data, validation


def _check_loss(config: TrainConfig, path: Path, purpose: str, data: SampleDataset) -> None:
    """Refuse data that no step can be made of: without this a training by steps would look for one for ever."""
    counted = data.num_loss_counted_tokens
    if config.oversize == "drop":
        counted = counted[data.lengths <= config.max_tokens_per_rank]
    if not len(data):
        raise ValueError(f"{path}: every {purpose} sample is longer than max_seq_len={config.max_seq_len}: raise it")
    if not counted.any():
        dropped = f" that max_tokens_per_rank={config.max_tokens_per_rank} leaves" if len(counted) < len(data) else ""
        raise ValueError(
            f"{path}: none of the {len(counted)} {purpose} samples{dropped} carries loss: behind its first token every "
            "label is -100; give the tokens to learn their ids as labels (of conversations prepare does, see "
            "--trained-role and --unmask), and let max_tokens_per_rank hold such a sample"
        )


def build_loader(
    config: TrainConfig,
    worker: Worker,
    data: SampleDataset,
    pad_token_id: int,
    *,
    quadratic: float,
    train: bool = True,
) -> BatchLoader:
    """Load batches of a data set, in epochs or, where the training has none, without end.

    Args:
        config: of the training.
        worker: this rank.
        data: the data set.
        pad_token_id: for padded minibatches.
        quadratic: what attention adds to a sample's work, see `quadratic_work`.
        train: the training's own data, not those of validation.
    """
    endless = train and not config.epochs
    return get_data_loader(
        data,
        batch_size=config.batch_size,
        max_tokens_per_rank=config.max_tokens_per_rank,
        rank=worker.rank,
        num_ranks=worker.world_size,
        sampler=InfiniteSampler(len(data), config.seed) if endless else EpochSampler(len(data), config.seed),
        strategy=config.packing,
        oversize=config.oversize,
        pad_token_id=pad_token_id,
        quadratic=quadratic,
        num_workers=config.num_workers,
        pin_memory=worker.device.type == "cuda",
    )


def count_steps(config: TrainConfig, data: SampleDataset) -> int | None:
    """Count the optimizer steps of the whole training; None if it is infinite.

    A schedule that is told too few rises again behind its end, and one that is told too many does not get there. So
    batches are counted in the order in which they come: those that carry no loss make no step, dropped samples have no
    tokens.
    """
    if not (config.epochs or config.tokens):
        return config.steps
    fits = data.lengths <= config.max_tokens_per_rank
    tokens, counted = data.lengths * fits, data.num_loss_counted_tokens * fits
    steps, seen = 0, 0
    for order in _batches(config, len(data)):
        of_batches = np.arange(0, len(order), config.batch_size)
        until = seen + np.add.reduceat(tokens[order], of_batches, dtype=np.int64).cumsum()
        makes_step = np.add.reduceat(counted[order], of_batches) > 0
        if config.tokens and until[-1] >= config.tokens:
            return steps + int(np.count_nonzero(makes_step[: np.searchsorted(until, config.tokens) + 1]))
        steps, seen = steps + int(np.count_nonzero(makes_step)), int(until[-1])
    return steps


def _batches(config: TrainConfig, num_samples: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the order of samples as `build_loader` has it, epoch by epoch: whole batches, but for the last."""
    rest = np.empty(0, np.int64)
    for epoch in range(config.epochs) if config.epochs else itertools.count():
        order = np.concatenate((rest, epoch_order(num_samples, config.seed, epoch).numpy()))
        whole = len(order) if config.epochs else len(order) // config.batch_size * config.batch_size
        if whole:
            yield order[:whole]
        rest = order[whole:]
