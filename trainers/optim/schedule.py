"""Learning-rate schedules by name: those of transformers, among them warm-up, stable, decay (``wsd``)."""

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from trainers.optim.options import refused_by_name

_FUNCTIONS = {
    "constant": "get_constant_schedule",
    "constant_with_warmup": "get_constant_schedule_with_warmup",
    "cosine": "get_cosine_schedule_with_warmup",
    "cosine_with_min_lr": "get_cosine_with_min_lr_schedule_with_warmup",
    "cosine_with_restarts": "get_cosine_with_hard_restarts_schedule_with_warmup",
    "inverse_sqrt": "get_inverse_sqrt_schedule",
    "linear": "get_linear_schedule_with_warmup",
    "polynomial": "get_polynomial_decay_schedule_with_warmup",
    "wsd": "get_wsd_schedule",
}
# Without options these are made here: the functions of transformers bring its Trainer along, and with it peft and
# bitsandbytes, which take seconds to import. Factor of the peak by the share of the steps after the warm-up.
_SHAPES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "constant_with_warmup": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
    "linear": lambda done: 1.0 - done,
}
_ENDLESS = ("constant", "constant_with_warmup", "inverse_sqrt")
_WSD_DECAY = 0.1  # share of the training that decays, as in arXiv 2404.06395, section 4


def build_schedule(
    optimizer: Optimizer,
    name: str,
    *,
    num_training_steps: int | None,
    num_warmup_steps: int = 0,
    options: Mapping[str, Any] | None = None,
) -> LambdaLR:
    """Make the schedule of the learning rate of every parameter group; ``step()`` it once after each optimizer step.

    A warm-up is linear from 0, so the first of its steps has learning rate 0. With the states of optimizer and schedule
    both restored, learning rates continue bit for bit.

    Args:
        optimizer: its present learning rates are the peaks.
        name: ``constant``, ``constant_with_warmup``, ``cosine``, ``cosine_with_min_lr``, ``cosine_with_restarts``,
            ``inverse_sqrt``, ``linear``, ``polynomial`` or ``wsd``.
        num_training_steps: optimizer steps of the whole run, > 0; None if it has no end, which ``constant``,
            ``constant_with_warmup`` and ``inverse_sqrt`` allow.
        num_warmup_steps: steps of the warm-up, from 0 to ``num_training_steps``.
        options: further arguments of the transformers function, such as ``{"min_lr_rate": 0.1}``. The
            ``num_decay_steps`` of ``wsd`` are a tenth of the training steps if not given.

    Raises:
        ValueError: an unknown name or option, steps that do not fit, or a warm-up for ``constant``, which has none.
    """
    if name not in _FUNCTIONS:
        raise ValueError(f"unknown schedule {name!r}; there are {', '.join(_FUNCTIONS)}")
    if num_training_steps is None and name not in _ENDLESS:
        raise ValueError(f"schedule {name} needs num_training_steps: use one of {', '.join(_ENDLESS)}")
    if num_training_steps == 0 or not 0 <= num_warmup_steps <= (num_training_steps or num_warmup_steps):
        raise ValueError(
            f"schedule {name}: num_warmup_steps={num_warmup_steps} must lie in "
            f"0..num_training_steps={num_training_steps}, and there must be a step"
        )
    if name == "constant" and num_warmup_steps:
        raise ValueError(
            f"schedule constant has no warm-up, got num_warmup_steps={num_warmup_steps}: use constant_with_warmup"
        )
    if name in _SHAPES and not options:
        return LambdaLR(optimizer, partial(_factor, _SHAPES[name], num_warmup_steps, num_training_steps))
    return _of_transformers(optimizer, name, num_training_steps, num_warmup_steps, dict(options or {}))


def _factor(shape: Callable[[float], float], num_warmup_steps: int, num_training_steps: int | None, step: int) -> float:
    if step < num_warmup_steps:
        return step / num_warmup_steps
    if num_training_steps is None:
        return shape(0.0)
    return shape(min(1.0, (step - num_warmup_steps) / max(1, num_training_steps - num_warmup_steps)))


def _of_transformers(
    optimizer: Optimizer, name: str, num_training_steps: int | None, num_warmup_steps: int, options: dict[str, Any]
) -> LambdaLR:
    from transformers import optimization  # (see _SHAPES)

    function = getattr(optimization, _FUNCTIONS[name])
    known = set(inspect.signature(function).parameters) - {"optimizer", "last_epoch"}
    steps = {"num_warmup_steps": num_warmup_steps, "num_training_steps": num_training_steps}
    unknown = sorted(set(options) - (known - set(steps)))
    if unknown:
        has = ", ".join(sorted(known - set(steps))) or "none"
        raise ValueError(f"schedule {name} has no option {', '.join(unknown)}; it has {has}")
    if name == "wsd":
        assert num_training_steps is not None
        options.setdefault("num_decay_steps", round(_WSD_DECAY * num_training_steps))
        if num_warmup_steps + options["num_decay_steps"] > num_training_steps:
            raise ValueError(
                f"schedule wsd: num_warmup_steps={num_warmup_steps} and num_decay_steps={options['num_decay_steps']} "
                f"are more than num_training_steps={num_training_steps}: shorten one of them"
            )
    with refused_by_name(f"schedule {name}", options):
        schedule: LambdaLR = function(
            optimizer, **{key: value for key, value in steps.items() if key in known}, **options
        )
    return schedule
