"""Brings together what a training needs: model, tokenizer, data, optimizer."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from trainers.attention.model_attention import use_packed_attention
from trainers.attention.packed import choose_backend
from trainers.checkpoint.safetensors_loading import load_safetensors
from trainers.data.collator import collate_packed, collate_padded
from trainers.data.dataset import SampleDataset, split_validation
from trainers.data.jsonl_dataset import JsonlDataset
from trainers.data.loader import BatchLoader, get_data_loader
from trainers.data.minibatch import Minibatch, Sample
from trainers.data.pretraining_blocks import PretrainingBlocks
from trainers.data.sampler import EpochSampler, InfiniteSampler
from trainers.lora.adapters import add_lora
from trainers.models.activation_memory import blocks_to_checkpoint
from trainers.models.align import align, num_rows
from trainers.models.blocks import checkpoint_blocks, compile_blocks, transformer_blocks
from trainers.models.inputs import model_inputs
from trainers.models.load import distribute_from_rank0, empty_model, materialise, read_model
from trainers.models.token_loss import use_loss
from trainers.optim.gradient_step import GradientStep
from trainers.optim.optimizer import build_optimizer
from trainers.optim.osft import apply_osft
from trainers.optim.schedule import build_schedule
from trainers.sft.config import TrainConfig
from trainers.sft.frameworks import Framework, FullySharded, Replicated
from trainers.sft.worker import Worker

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """All parts of a training, on one rank.

    Attributes:
        base: the transformers model.
        model: the same, or the adapters around it, without what the framework puts around: its parameters are trained.
        framework: what shares it among ranks.
        tokenizer: saved with it.
        optimizer: of its parameters.
        schedule: of the optimizer.
        update: one optimizer step.
        loader: training batches.
        validation: validation batches, if any.
        total_steps: optimizer steps of the whole training; None if it is infinite.
        mean_length: tokens of the sequence that a token is in, averaged over tokens.
    """

    config: TrainConfig
    worker: Worker
    base: PreTrainedModel
    model: nn.Module
    framework: Framework
    tokenizer: PreTrainedTokenizerBase
    optimizer: Optimizer
    schedule: LRScheduler
    update: GradientStep
    loader: BatchLoader
    validation: BatchLoader | None
    total_steps: int | None
    mean_length: float

    def loss_of(self, minibatch: Minibatch) -> Tensor:
        """Return the summed loss of a minibatch of this rank."""
        return _loss_of(self.framework, minibatch, self.worker.device)


def set_up(config: TrainConfig, worker: Worker) -> Training:
    """Build everything; a collective.

    Raises:
        ValueError: if model, tokenizer or data are not what they must be.
    """
    torch.manual_seed(config.seed)
    tokenizer = AutoTokenizer.from_pretrained(config.tokenizer or config.model)
    compute_dtype = _compute_dtype(config, worker.device)
    model, weights = _model(config, worker, tokenizer)
    if config.packing == "padded":
        model.set_attn_implementation("sdpa")
    else:
        backend = config.attention
        use_packed_attention(model, choose_backend(worker.device, compute_dtype) if backend == "auto" else backend)
    use_loss(model, config.loss)
    model.train()
    trained: nn.Module = model
    if config.lora_rank:
        trained = add_lora(
            model,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            target_modules=config.lora_targets,
            seed=config.seed,
        )
    if config.osft_unfreeze is not None:
        apply_osft(model, config.osft_unfreeze, config.osft_targets)
    if config.compile if config.compile is not None else worker.device.type == "cuda":
        compile_blocks(trained)
    framework = _framework(config, worker, trained, compute_dtype)
    shards_device = torch.device("cpu") if config.cpu_offload else worker.device
    if config.loading == "sharded":
        load_safetensors(trained, config.model, shards_device)
    elif weights is not None:
        if worker.rank:
            materialise(trained, shards_device)
        distribute_from_rank0(trained, weights)
    train_data, validation_data = _data(config, tokenizer.pad_token_id)
    _checkpoint(config, worker, trained, framework)
    assert config.framework != "fsdp" or all(isinstance(each, DTensor) for each in trained.parameters())
    optimizer = build_optimizer(
        trained,
        config.learning_rate,
        name=config.optimizer,
        weight_decay=config.weight_decay,
        options=config.optimizer_options,
    )
    loader = _loader(config, worker, train_data, tokenizer.pad_token_id)
    total_steps = _total_steps(config, train_data)
    schedule = build_schedule(
        optimizer,
        config.schedule,
        num_training_steps=total_steps or 1,
        num_warmup_steps=config.warmup_steps,
        options=config.schedule_options,
    )
    return Training(
        config=config,
        worker=worker,
        base=model,
        model=trained,
        framework=framework,
        tokenizer=tokenizer,
        optimizer=optimizer,
        schedule=schedule,
        update=GradientStep(trained, optimizer, schedule, config.max_grad_norm),
        loader=loader,
        validation=_loader(config, worker, validation_data, tokenizer.pad_token_id, train=False)
        if validation_data
        else None,
        total_steps=total_steps,
        mean_length=float(np.average(train_data.lengths, weights=train_data.lengths)),
    )


def _loss_of(framework: Framework, minibatch: Minibatch, device: torch.device) -> Tensor:
    with framework.computing():
        loss: Tensor = framework.module(**model_inputs(minibatch, device)).loss
    return loss


def _compute_dtype(config: TrainConfig, device: torch.device) -> torch.dtype:
    if config.compute_dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, config.compute_dtype)
    return dtype


def _model(
    config: TrainConfig, worker: Worker, tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedModel, Mapping[str, Tensor] | None]:
    """Return the model and, if only rank 0's has values, the whole weights to distribute from there."""
    # Copies, and what is made out of weights (factors, adapters), need them on every rank.
    everywhere = (
        worker.world_size == 1 or config.framework == "ddp" or config.lora_rank or config.osft_unfreeze is not None
    )
    sharded = config.loading == "sharded"
    full = not sharded and (everywhere or worker.rank == 0)
    model = read_model(config.model, config.seed) if full else empty_model(config.model)
    torch.manual_seed(config.seed)  # (new rows of an embedding, the same on all ranks)
    rows = num_rows(model)
    align(model, tokenizer)
    if sharded and num_rows(model) != rows:
        raise ValueError(
            f"loading=sharded and {len(tokenizer)} tokens for {rows} rows of the embedding: new rows are drawn where "
            "the weights are whole; use loading=rank0"
        )
    if everywhere or sharded:
        return model, None
    return model, {name: parameter.detach() for name, parameter in model.named_parameters()}


def _framework(config: TrainConfig, worker: Worker, model: nn.Module, compute_dtype: torch.dtype) -> Framework:
    if config.framework == "ddp":
        replicated = Replicated(model.to(worker.device), worker.mesh, compute_dtype)
        replicated.rehearse(lambda: _loss_of(replicated, _minibatch(config, []), worker.device))
        return replicated
    return FullySharded(
        model,
        worker.mesh,
        compute_dtype,
        reshard_after_forward=config.reshard_after_forward,
        cpu_offload=config.cpu_offload,
    )


def _checkpoint(config: TrainConfig, worker: Worker, model: nn.Module, framework: Framework) -> None:
    asked = config.activation_checkpointing
    if asked == "full":
        count = len(transformer_blocks(model))
    elif asked != "auto":
        count = asked
    elif worker.device.type == "cuda":
        limit = (config.memory_limit_gb or 0) * 1e9 or 0.9 * torch.cuda.get_device_properties(
            worker.device
        ).total_memory
        tokens = torch.zeros(config.max_tokens_per_rank, dtype=torch.int64)
        largest = _minibatch(config, [{"input_ids": tokens, "labels": tokens}])
        count = blocks_to_checkpoint(model, lambda: _loss_of(framework, largest, worker.device), limit)
    else:
        count = 0
    checkpoint_blocks(model, count)
    if count:
        _log.info("%d of %d blocks compute their activations anew", count, len(transformer_blocks(model)))


def _minibatch(config: TrainConfig, samples: Sequence[Sample]) -> Minibatch:
    """Collate samples in the form that the training takes; a dummy if there are none."""
    return collate_padded(samples, 0, 0) if config.packing == "padded" else collate_packed(samples, 0)


def _data(config: TrainConfig, pad_token_id: int) -> tuple[SampleDataset, SampleDataset | None]:
    def read(path: Path) -> SampleDataset:
        if path.suffix == ".npy":
            return PretrainingBlocks(path, pad_token_id)
        return JsonlDataset(path, config.max_seq_len, config.on_bad_line)

    if config.validation_data:
        return read(config.data), read(config.validation_data)
    if config.validation_fraction:
        return split_validation(read(config.data), config.validation_fraction, config.seed)
    return read(config.data), None


def _loader(
    config: TrainConfig, worker: Worker, data: SampleDataset, pad_token_id: int, *, train: bool = True
) -> BatchLoader:
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


def _total_steps(config: TrainConfig, data: SampleDataset) -> int | None:
    if config.epochs:
        return config.epochs * -(-len(data) // config.batch_size)
    if config.tokens:
        # (as many as it takes on average: batches differ)
        return max(1, round(config.tokens / (float(data.lengths.mean()) * config.batch_size)))
    return config.steps
