"""Makes a folder that transformers loads of a full state of a training."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from trainers.checkpoint.consolidate import consolidate, load_weights, write_folder
from trainers.checkpoint.store import Checkpoint, CheckpointStore
from trainers.data.tokenizer import load_tokenizer
from trainers.lora.adapters import add_lora, merged_tensors
from trainers.lora.quantization import quantize_nf4
from trainers.models.align import align
from trainers.models.load import empty_model, materialise, read_model
from trainers.optim.osft import dense_tensors, insert_osft_layers
from trainers.sft.config import TrainConfig
from trainers.sft.saving import STATES


def intact_state(output: Path, step: int | None) -> Checkpoint:
    """Return a full state in the output folder of a training whose contents are intact.

    Args:
        output: the folder.
        step: optimizer steps before the state was taken; None: the newest intact one.

    Raises:
        ValueError: if there is none, or that of the step is damaged.
    """
    store = CheckpointStore(output / STATES)
    checkpoints, _ = store.scan()
    by_step = {checkpoint.step: checkpoint for checkpoint in checkpoints}  # (of one that was saved again, the newest)
    steps = ", ".join(map(str, by_step)) or "none"
    if step is None:
        if newest := store.latest():
            return newest
        raise ValueError(f"{store.folder} has no intact state: give the output folder of a training")
    if step not in by_step:
        raise ValueError(f"{store.folder} has no state of step {step}: there are {steps}")
    checkpoint = by_step[step]
    if damage := store.damage(checkpoint):
        raise ValueError(f"{checkpoint.path} is damaged: {damage}; choose another step of {steps}")
    return checkpoint


def convert_state(checkpoint: Checkpoint, config: TrainConfig, folder: Path) -> None:
    """Write the model of a full state as `train` would have, on this machine, however many ranks saved it.

    Memory: one shard; with adapters or factors the whole model in fp32.

    Args:
        checkpoint: the state.
        config: of the training; its model and tokenizer are read, weights only if they are quantised.
        folder: made here.

    Raises:
        ValueError: the folder exists, or model, tokenizer and state are not those of one training.
    """
    tokenizer = load_tokenizer(config.tokenizer or config.model)
    quantised = config.quantize == "nf4"  # (a state has not the weights in four bits)
    model = read_model(config.model, config.seed) if quantised else empty_model(config.model)
    align(model, tokenizer)
    if quantised:
        quantize_nf4(model, torch.float32)
    dtype = getattr(torch, config.save_dtype)
    trained: nn.Module
    dense: Iterable[tuple[str, Tensor]]
    if config.lora_rank:
        adapted = add_lora(model, rank=config.lora_rank, alpha=config.lora_alpha, target_modules=config.lora_targets)
        trained, dense = adapted, merged_tensors(adapted)
    elif config.osft_unfreeze is not None:
        insert_osft_layers(model, config.osft_unfreeze, config.osft_targets)
        trained, dense = model, dense_tensors(model)
    else:
        consolidate(checkpoint, model, folder, tokenizer=tokenizer, dtype=dtype)
        return
    if not quantised:
        materialise(trained, torch.device("cpu"))
    load_weights(checkpoint, trained)
    write_folder(model, folder, dense, tokenizer=tokenizer, dtype=dtype)
