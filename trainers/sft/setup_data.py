"""The data of a training: files, loaders, number of steps."""

from pathlib import Path

from trainers.data.dataset import SampleDataset, split_validation
from trainers.data.jsonl_dataset import JsonlDataset
from trainers.data.loader import BatchLoader, get_data_loader
from trainers.data.pretraining_blocks import PretrainingBlocks
from trainers.data.sampler import EpochSampler, InfiniteSampler
from trainers.sft.config import TrainConfig
from trainers.sft.worker import Worker


def read_data(config: TrainConfig, pad_token_id: int) -> tuple[SampleDataset, SampleDataset | None]:
    """Open the training data and the validation data, if any.

    Raises:
        ValueError: if a file is not what it must be.
    """

    def read(path: Path) -> SampleDataset:
        if path.suffix == ".npy":
            return PretrainingBlocks(path, pad_token_id)
        return JsonlDataset(path, config.max_seq_len, config.on_bad_line)

    if config.validation_data:
        return read(config.data), read(config.validation_data)
    if config.validation_fraction:
        return split_validation(read(config.data), config.validation_fraction, config.seed)
    return read(config.data), None


def build_loader(
    config: TrainConfig, worker: Worker, data: SampleDataset, pad_token_id: int, *, train: bool = True
) -> BatchLoader:
    """Load batches of a data set, in epochs or, where the training has none, without end."""
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
        num_workers=config.num_workers,
        pin_memory=worker.device.type == "cuda",
    )


def count_steps(config: TrainConfig, data: SampleDataset) -> int | None:
    """Count the optimizer steps of the whole training; None if it is infinite."""
    if config.epochs:
        return config.epochs * -(-len(data) // config.batch_size)
    if config.tokens:
        # (as many as it takes on average: batches differ)
        return max(1, round(config.tokens / (float(data.lengths.mean()) * config.batch_size)))
    return config.steps
