import copy
import math

import pytest
import torch
from torch import nn
from torch.optim import AdamW
from transformers import optimization

from trainers.optim.schedule import build_schedule

OPTIONS = {"cosine_with_min_lr": {"min_lr_rate": 0.1}}
NAMES = [
    "constant",
    "constant_with_warmup",
    "cosine",
    "cosine_with_min_lr",
    "cosine_with_restarts",
    "inverse_sqrt",
    "linear",
    "polynomial",
    "wsd",
]


def optimizer(learning_rate=1.0):
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    return AdamW([parameter], lr=learning_rate)


def build(name, its_optimizer):
    warmup = 0 if name == "constant" else 4
    return build_schedule(
        its_optimizer, name, num_warmup_steps=warmup, num_training_steps=20, options=OPTIONS.get(name)
    )


def rates(its_optimizer, schedule, steps):
    found = []
    for _ in range(steps):
        found.append(its_optimizer.param_groups[0]["lr"])
        its_optimizer.step()
        schedule.step()
    return found


def test_warm_up_stable_decay():
    its_optimizer = optimizer(2.0)
    schedule = build_schedule(its_optimizer, "wsd", num_warmup_steps=4, num_training_steps=20)
    decay = [0.5 * (1 + math.cos(math.pi * step / 2)) for step in range(2)]  # two steps: a tenth of 20
    expected = [0.0, 0.5, 1.0, 1.5, *[2.0] * 14, *(2.0 * factor for factor in decay), 0.0]
    assert rates(its_optimizer, schedule, 21) == pytest.approx(expected)


def test_wsd_options():
    its_optimizer = optimizer()
    options = {"num_decay_steps": 4, "decay_type": "linear", "min_lr_ratio": 0.2}
    schedule = build_schedule(its_optimizer, "wsd", num_training_steps=6, options=options)
    assert rates(its_optimizer, schedule, 7) == pytest.approx([1, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_linear_and_cosine():
    for name, expected in (
        ("linear", [0, 0.5, 1, 0.75, 0.5, 0.25, 0]),
        ("cosine", [0, 0.5, 1, *(0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(1, 5))]),
    ):
        its_optimizer = optimizer()
        schedule = build_schedule(its_optimizer, name, num_warmup_steps=2, num_training_steps=6)
        assert rates(its_optimizer, schedule, 7) == pytest.approx(expected), name


@pytest.mark.parametrize("warmup", [0, 3, 9])
def test_what_is_made_here_is_what_transformers_makes(warmup):
    for name in ("constant_with_warmup", "cosine", "linear"):
        ours, theirs = optimizer(), optimizer()
        schedule = build_schedule(ours, name, num_warmup_steps=warmup, num_training_steps=9)
        reference = optimization.get_scheduler(name, theirs, num_warmup_steps=warmup, num_training_steps=9)
        assert rates(ours, schedule, 9) == pytest.approx(rates(theirs, reference, 9), rel=1e-15), name


def test_past_the_end_nothing_rises_again():
    """The end of a training by tokens is an estimate."""
    for name in ("cosine", "linear"):
        its_optimizer = optimizer()
        assert rates(its_optimizer, build_schedule(its_optimizer, name, num_training_steps=4), 8)[4:] == [0.0] * 4


@pytest.mark.parametrize("name", ["constant", "constant_with_warmup", "inverse_sqrt"])
def test_a_training_without_an_end(name):
    """Its warm-up may be as long as it likes."""
    warmup = 0 if name == "constant" else 4
    its_optimizer = optimizer()
    schedule = build_schedule(its_optimizer, name, num_training_steps=None, num_warmup_steps=warmup)
    found = rates(its_optimizer, schedule, 17)
    assert found[: warmup + 1] == [*(step / 4 for step in range(warmup)), 1.0]
    assert found[16] == (0.5 if name == "inverse_sqrt" else 1.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_restored_state_continues_bit_for_bit(name):
    its_optimizer = optimizer(1e-3)
    schedule = build(name, its_optimizer)
    other = optimizer(1e-3)
    whole_run = rates(other, build(name, other), 20)
    for done in range(20):
        fresh = optimizer(1e-3)
        restored = build(name, fresh)
        fresh.load_state_dict(copy.deepcopy(its_optimizer.state_dict()))
        restored.load_state_dict(copy.deepcopy(schedule.state_dict()))
        assert rates(fresh, restored, 20 - done) == whole_run[done:]
        its_optimizer.step()
        schedule.step()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("cosin", {}, "unknown schedule 'cosin'; there are constant, constant_with_warmup, cosine,"),
        ("linear", {"num_warmup_steps": 7}, "num_warmup_steps=7 must lie in 0..num_training_steps=6"),
        ("linear", {"num_warmup_steps": -1}, "num_warmup_steps=-1 must lie in"),
        ("linear", {"num_training_steps": 0}, "there must be a step"),
        (
            "wsd",
            {"num_training_steps": None},
            "wsd needs num_training_steps: use one of constant, constant_with_warmup",
        ),
        (
            "cosine_with_min_lr",
            {},
            "schedule cosine_with_min_lr with no options: One of min_lr or min_lr_rate should be",
        ),
        (
            "cosine_with_min_lr",
            {"options": {"min_lr_rate": "1e-1"}},
            "schedule cosine_with_min_lr with min_lr_rate='1e-1': ",
        ),
        ("inverse_sqrt", {"options": {"timescale": 0}}, "schedule inverse_sqrt with timescale=0: .*zero"),
        ("constant", {"num_warmup_steps": 2}, "use constant_with_warmup"),
        ("linear", {"options": {"power": 2}}, "schedule linear has no option power; it has none"),
        (
            "cosine",
            {"options": {"num_training_steps": 2}},
            "cosine has no option num_training_steps; it has num_cycles",
        ),
        ("wsd", {"num_warmup_steps": 3, "options": {"num_decay_steps": 4}}, "num_decay_steps=4 are more than"),
    ],
)
def test_what_cannot_be(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        build_schedule(optimizer(), name, **{"num_training_steps": 6, **arguments})
