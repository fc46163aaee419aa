"""The data of a training: files, loaders, number of steps."""

from pathlib import Path

from trainers.data.arrow_dataset import ArrowDataset
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
        ValueError: if a file is not what it must be, or no sample of it carries loss.
    """

    def read(path: Path) -> SampleDataset:
        if path.suffix == ".npy":
            return PretrainingBlocks(path, pad_token_id)
        if path.suffix == ".arrow":
            return ArrowDataset(path, config.max_seq_len)
        return JsonlDataset(path, config.max_seq_len, config.on_bad_line)

    data = read(config.data)
    validation: SampleDataset | None = None
    if config.validation_data:
        validation = read(config.validation_data)
    elif config.validation_fraction:
        data, validation = split_validation(data, config.validation_fraction, config.seed)
    _check_loss(config, config.data, "training", data)
    if validation:
        _check_loss(config, config.validation_data or config.data, "validation", validation)
    return data, validation


def _check_loss(config: TrainConfig, path: Path, purpose: str, data: SampleDataset) -> None:
    """Refuse data that no step can be made of: without this a training by steps would look for one for ever."""
    counted = data.num_loss_counted_tokens
    if config.oversize == "drop":
        counted = counted[data.lengths <= config.max_tokens_per_rank]
    if len(data) and not counted.any():
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
    """Count the optimizer steps of the whole training; None if it is infinite."""
    if config.epochs:
        return config.epochs * -(-len(data) // config.batch_size)
    if config.tokens:
        # (as many as it takes on average: batches differ)
        return max(1, round(config.tokens / (float(data.lengths.mean()) * config.batch_size)))
    return config.steps
