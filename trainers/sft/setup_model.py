"""The model of a training: loaded, adapted, shared among the ranks and fitted into memory."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainers.attention.model_attention import use_packed_attention
from trainers.attention.packed import choose_backend
from trainers.checkpoint.safetensors_loading import load_safetensors
from trainers.data.collator import collate_packed, collate_padded
from trainers.data.minibatch import Minibatch, Sample
from trainers.lora.quantization import quantize_nf4
from trainers.models.activation_memory import blocks_to_checkpoint
from trainers.models.align import align, num_rows
from trainers.models.blocks import checkpoint_blocks, compile_blocks, transformer_blocks
from trainers.models.inputs import model_inputs
from trainers.models.load import distribute_from_rank0, empty_model, materialise, read_model, whole_tensors
from trainers.models.token_loss import use_loss
from trainers.optim.osft import apply_osft
from trainers.sft.config import TrainConfig
from trainers.sft.deepspeed_framework import ZeroSharded
from trainers.sft.frameworks import Framework, FullySharded, Replicated
from trainers.sft.worker import Worker

_log = logging.getLogger(__name__)


def set_up_model(
    config: TrainConfig, worker: Worker, tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedModel, nn.Module, Framework]:
    """Load the model and make it ready for training; a collective.

    Args:
        config: of the training.
        worker: this rank.
        tokenizer: is given what it lacks, as the model is.

    Returns:
        The transformers model; the same, or the adapters around it, whose parameters are trained; what shares it among
        the ranks.

    Raises:
        ValueError: if the model is not what it must be.
    """
    compute_dtype = _compute_dtype(config, worker.device)
    model, weights = _model(config, worker, tokenizer)
    if config.packing == "padded":
        model.set_attn_implementation("sdpa")
    else:
        backend = config.attention
        use_packed_attention(model, choose_backend(worker.device, compute_dtype) if backend == "auto" else backend)
    model.train()
    trained: nn.Module = model
    if config.quantize == "nf4":
        quantize_nf4(model, compute_dtype)
    if config.lora_rank:
        from trainers.lora.adapters import add_lora  # (peft takes seconds to import)

        trained = add_lora(
            model,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            target_modules=config.lora_targets,
            seed=config.seed,
        )
    if config.osft_unfreeze is not None:
        apply_osft(model, config.osft_unfreeze, config.osft_targets, device=worker.device)
    use_loss(model, config.loss)  # (refuses what they may have put in place of the head)
    compiled = config.compiles_on(worker.device.type)
    if compiled:
        compile_blocks(trained)
    framework = _framework(config, worker, trained, compute_dtype)
    shards_device = torch.device("cpu") if config.cpu_offload else worker.device
    if config.loading == "sharded":
        materialise(trained, shards_device)
        load_safetensors(trained, config.model)
    elif weights is not None:
        if worker.rank:
            materialise(trained, shards_device)
        distribute_from_rank0(trained, weights, worker.mesh)
    count = _blocks_to_checkpoint(config, worker, trained, framework)
    checkpoint_blocks(trained, count, compiled=compiled)
    if count:
        _log.info("%d of %d blocks compute their activations anew", count, len(transformer_blocks(trained)))
    return model, trained, framework


def loss_of(
    framework: Framework, minibatch: Minibatch, device: torch.device, module: nn.Module | None = None
) -> Tensor:
    """Return the summed loss of a minibatch of this rank, by the framework's module unless another one is given."""
    with framework.computing():
        loss: Tensor = (module or framework.module)(**model_inputs(minibatch, device)).loss
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
    # Copies, and what is made out of weights (shards of ZeRO, factors, adapters), need them on every rank.
    everywhere = (
        worker.world_size == 1 or config.framework != "fsdp" or config.lora_rank or config.osft_unfreeze is not None
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
    return model, whole_tensors(model)


def _framework(config: TrainConfig, worker: Worker, model: nn.Module, compute_dtype: torch.dtype) -> Framework:
    if config.framework == "ddp":
        replicated = Replicated(model.to(worker.device), worker.mesh, compute_dtype)
        replicated.rehearse(lambda: loss_of(replicated, _minibatch(config, []), worker.device))
        return replicated
    if config.framework == "deepspeed":
        return ZeroSharded(model, worker.mesh, compute_dtype, config.zero_stage or 3)
    return FullySharded(
        model,
        worker.mesh,
        compute_dtype,
        reshard_after_forward=config.reshard_after_forward,
        cpu_offload=config.cpu_offload,
    )


def _blocks_to_checkpoint(config: TrainConfig, worker: Worker, model: nn.Module, framework: Framework) -> int:
    asked = config.activation_checkpointing
    if asked == "full":
        return len(transformer_blocks(model))
    if asked != "auto":
        return asked
    if worker.device.type != "cuda" or config.framework == "deepspeed":
        return 0
    of_device = torch.cuda.get_device_properties(worker.device).total_memory
    limit = config.memory_limit_gb * 1e9 if config.memory_limit_gb else 0.9 * of_device
    largest = _largest_minibatch(config, model)
    # (by the model itself: DDP around it would go on to wait for a backward pass)
    return blocks_to_checkpoint(
        model,
        lambda: loss_of(framework, largest, worker.device, model),
        limit,
        in_buckets=config.framework == "ddp",
    )


def _largest_minibatch(config: TrainConfig, model: nn.Module) -> Minibatch:
    """Make one of as many tokens as they have at most, in sequences that the model has positions for."""
    tokens = torch.zeros(config.max_tokens_per_rank, dtype=torch.int64)
    model_config: Any = model.config
    longest = getattr(model_config.get_text_config(), "max_position_embeddings", None) or len(tokens)
    return _minibatch(config, [{"input_ids": part, "labels": part} for part in tokens.split(longest)])


def _minibatch(config: TrainConfig, samples: Sequence[Sample]) -> Minibatch:
    """Collate samples in the form that the training takes; a dummy if there are none."""
    return collate_padded(samples, 0, 0) if config.packing == "padded" else collate_packed(samples, 0)
