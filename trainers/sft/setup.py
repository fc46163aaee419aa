"""Brings together what a training needs: model, tokenizer, data, optimizer."""

import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainers.data.loader import BatchLoader
from trainers.data.minibatch import Minibatch
from trainers.data.tokenizer import load_tokenizer
from trainers.optim.optimizer import build_optimizer
from trainers.optim.schedule import build_schedule
from trainers.sft.config import TrainConfig
from trainers.sft.frameworks import Framework
from trainers.sft.measurement import flops_per_token, quadratic_work
from trainers.sft.setup_data import build_loader, count_steps, read_data
from trainers.sft.setup_model import loss_of, set_up_model
from trainers.sft.worker import Worker


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
        loader: training batches.
        validation: validation batches, if any.
        total_steps: optimizer steps of the whole training; None if it is infinite.
        flops_per_token: operations of a token, in a sequence as long as tokens find themselves in on average.
    """

    config: TrainConfig
    worker: Worker
    base: PreTrainedModel
    model: nn.Module
    framework: Framework
    tokenizer: PreTrainedTokenizerBase
    optimizer: Optimizer
    schedule: LambdaLR
    loader: BatchLoader
    validation: BatchLoader | None
    total_steps: int | None
    flops_per_token: float

    def loss_of(self, minibatch: Minibatch) -> Tensor:
        """Return the summed loss of a minibatch of this rank."""
        return loss_of(self.framework, minibatch, self.worker.device)


def _use_deterministic_algorithms() -> None:
    """Let torch and cuBLAS take kernels that sum in a fixed order, for the rest of this process."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # (torch asks for it, and names it if it is missing)
    torch.use_deterministic_algorithms(True)
    # (it would also write NaN into all memory that is not written yet, to show who reads it)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # (a property of the module)


def set_up(config: TrainConfig, worker: Worker) -> Training:
    """Build everything; a collective.

    Raises:
        ValueError: if model, tokenizer or data are not what they must be.
    """
    torch.manual_seed(config.seed)
    if config.deterministic:
        _use_deterministic_algorithms()
    tokenizer = load_tokenizer(config.tokenizer or config.model)
    base, model, framework = set_up_model(config, worker, tokenizer)
    train_data, validation_data = read_data(config, tokenizer.pad_token_id)
    assert config.framework != "fsdp" or all(isinstance(each, DTensor) for each in model.parameters())
    optimizer = build_optimizer(
        model,
        config.learning_rate,
        name=config.optimizer,
        weight_decay=config.weight_decay,
        options=config.optimizer_options,
    )
    # (here, where no framework has taken the parameters' shapes away)
    quadratic = quadratic_work(base)
    flops = flops_per_token(base, float(np.average(train_data.lengths, weights=train_data.lengths)))
    loader = build_loader(config, worker, train_data, tokenizer.pad_token_id, quadratic=quadratic)
    total_steps = count_steps(config, train_data)
    schedule = build_schedule(
        optimizer,
        config.schedule,
        num_training_steps=total_steps,
        num_warmup_steps=config.warmup_steps,
        options=config.schedule_options,
    )
    framework.start(optimizer, schedule, config.max_grad_norm)
    return Training(
        config=config,
        worker=worker,
        base=base,
        model=model,
        framework=framework,
        tokenizer=tokenizer,
        optimizer=optimizer,
        schedule=schedule,
        loader=loader,
        validation=build_loader(
            config, worker, validation_data, tokenizer.pad_token_id, quadratic=quadratic, train=False
        )
        if validation_data
        else None,
        total_steps=total_steps,
        flops_per_token=flops,
    )
