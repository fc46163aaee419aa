"""What a training leaves in its output folder: full states to resume from, and models to use.

``states/step-N``  full states (`FullStateSaver`), the newest few
``models/step-N``  models that transformers loads (`write_transformers`)
``best/step-N``    the model of the least validation loss
``former-N``       what was there when a training began anew
"""

import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from trainers.checkpoint.full_state import FullStateSaver, load_full_state
from trainers.checkpoint.store import Checkpoint, CheckpointStore
from trainers.checkpoint.transformers_format import write_transformers
from trainers.models.sharding import local_bytes
from trainers.optim.osft import dense_tensors
from trainers.parallel.ranks import Ranks
from trainers.sft.config import CONFIG, TrainConfig
from trainers.sft.metrics import METRICS
from trainers.sft.progress import Progress
from trainers.sft.setup import Training

_log = logging.getLogger(__name__)

STATES, MODELS, BEST = "states", "models", "best"

_DECIDED = (
    *("seed", "batch_size", "validation_fraction", "optimizer"),
    *("lora_rank", "lora_alpha", "lora_targets", "quantize", "osft_unfreeze", "osft_targets"),
)
"""Options that a training goes on with: a state has no meaning, or steps are counted otherwise, with others."""


class Saver:
    """Saves and restores one training; every method is a collective.

    Args:
        training: what is saved.
    """

    def __init__(self, training: Training) -> None:
        self._training = training
        folder, keep = training.config.output, training.config.keep_last
        self._ranks = Ranks.of_their_own()
        self._states = CheckpointStore(folder / STATES, self._ranks, keep_last=keep)
        self._models = CheckpointStore(folder / MODELS, self._ranks)
        self._best = CheckpointStore(folder / BEST, self._ranks, keep_last=1)
        self._saver = FullStateSaver(self._states)
        config = training.config
        saves_on_the_way = config.save_every_steps or config.save_every_samples or config.save_every_epoch
        if saves_on_the_way and training.worker.device.type == "cuda":
            self._saver.reserve(_size_of_state(training.model))
        self.state_step: int | None = None
        self.model_step: int | None = None

    def restore(self, progress: Progress) -> Path | None:
        """Go back to the newest intact state, if there is one; return its folder.

        Raises:
            ValueError: if the state is of a training that cannot go on with these options; names them.
        """
        newest = self._states.latest()
        if newest is None:
            return None
        _check_decided(newest, _decided(self._training.config))
        training = self._training
        configured = [_options(group) for group in training.optimizer.param_groups]
        model, optimizer = training.framework.state()
        saved = load_full_state(newest, model, optimizer, training.schedule, self._ranks)
        training.framework.set_state(model, optimizer)
        _go_on_as_configured(training.optimizer, training.schedule, configured)
        training.loader.load_state_dict(saved.pop("loader"))
        for name, value in saved.items():
            setattr(progress, name, value)
        self.state_step = newest.step
        models, _ = self._models.scan()
        # (those of later steps are from before the way back)
        self.model_step = newest.step if any(model.step == newest.step for model in models) else None
        return newest.path

    def begin_anew(self) -> None:
        """Move what a former training has left here into a folder of its own: its states would pass for newer ones."""
        self._ranks.first(lambda: _set_aside(self._training.config.output))

    def save_state(self, progress: Progress) -> Path:
        """Begin to save a full state; it is written while training goes on."""
        training = self._training
        place = self._saver.save(
            progress.step,
            *training.framework.state(),
            training.schedule,
            {**progress.state_dict(), "loader": training.loader.state_dict()},
            {"samples": progress.samples, "epoch": progress.epoch, "options": _decided(training.config)},
        )
        self.state_step = progress.step
        return place

    def save_model(self, progress: Progress) -> Path:
        """Save the model as transformers loads it."""
        self.model_step = progress.step
        return self._write(self._models, progress)

    def save_best(self, progress: Progress) -> Path:
        """The same, in place of the best one so far."""
        return self._write(self._best, progress)

    def close(self) -> None:
        """Wait for the state that is being written."""
        self._saver.close()

    def _write(self, store: CheckpointStore, progress: Progress) -> Path:
        self._saver.wait()  # (the ranks' group is the thread's as long as it writes)
        training = self._training
        checkpoint = store.save(
            progress.step,
            lambda folder: write_transformers(
                training.base,
                folder,
                state=self._dense(),
                tokenizer=training.tokenizer,
                dtype=getattr(torch, training.config.save_dtype),
                ranks=self._ranks,
            ),
            {"samples": progress.samples, "validation_loss": progress.best_validation_loss},
        )
        return checkpoint.path

    def _dense(self) -> Iterable[tuple[str, Tensor]] | None:
        """The weights as a plain model has them, where the trained one has others."""
        training = self._training
        if training.config.lora_rank:
            from trainers.lora.adapters import merged_tensors  # (peft takes seconds to import)

            return merged_tensors(training.model)
        if training.config.osft_unfreeze is not None:
            return dense_tensors(training.model)
        return training.framework.whole_weights()


def _decided(config: TrainConfig) -> dict[str, Any]:
    """What stays as it is when a training goes on, as values of JSON."""
    # (batches end with the epochs or do not)
    order = {"length": "epochs" if config.epochs else "steps, tokens or infinite"}
    return order | config.model_dump(mode="json", include=set(_DECIDED))


def _check_decided(state: Checkpoint, options: Mapping[str, Any]) -> None:
    former = state.metadata.get("options", {})  # (states of the first versions have none)
    changed = [
        f"{name}={value} (was {former.get(name, 'not stored')})"
        for name, value in options.items()
        if name not in former or former[name] != value
    ]
    if changed:
        raise ValueError(
            f"{state.path} cannot go on with {', '.join(changed)}: train as before, or into another output folder"
        )


def _set_aside(output: Path) -> None:
    former = [output / name for name in (CONFIG, METRICS, MODELS, BEST, STATES) if (output / name).exists()]
    if former:
        number = next(number for number in itertools.count(1) if not (output / f"former-{number}").exists())
        aside = output / f"former-{number}"
        aside.mkdir()
        for path in former:
            path.rename(aside / path.name)
        _log.info("what a former training has left in %s is now in %s", output, aside)


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _go_on_as_configured(optimizer: Optimizer, schedule: LambdaLR, configured: Sequence[Mapping[str, Any]]) -> None:
    """Take moments and position from the state, but learning rates, decay and the like from the configuration.

    Args:
        optimizer: with the state's options.
        schedule: the configured one, at the state's position.
        configured: options of the optimizer's groups before the state was loaded.
    """
    peaks = [options["initial_lr"] for options in configured]
    rates = [peak * factor(schedule.last_epoch) for peak, factor in zip(peaks, schedule.lr_lambdas, strict=True)]
    for group, options, rate in zip(optimizer.param_groups, configured, rates, strict=True):
        group.update({**options, "lr": rate})
    schedule.load_state_dict({**schedule.state_dict(), "base_lrs": peaks, "_last_lr": rates})


def _size_of_state(model: nn.Module) -> int:
    """Bytes of this rank's part of parameters and of two moments for each that is trained."""
    return sum((3 if parameter.requires_grad else 1) * local_bytes(parameter) for parameter in model.parameters())
