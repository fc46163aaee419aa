"""What the pieces of a full state do by themselves; full_state_test shows that nothing is missing from the whole."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from trainers.checkpoint.module_state import all_tensors, plain_model, without_aliases
from trainers.checkpoint.optimizer_state import (
    new_optimizer_tensors,
    optimizer_rest,
    optimizer_tensors,
    set_optimizer_state,
)
from trainers.checkpoint.rng import rng_state, set_rng_state


def names_of(model):
    return {id(tensor): name for name, tensor in all_tensors(model).items()}


def test_names_are_those_of_the_plain_model():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2, bias=False))
    model[2].weight = model[0].weight
    model.register_buffer("computed", torch.zeros(1), persistent=False)
    expected = list(model.state_dict())
    model[0] = torch.compile(model[0], backend="eager")
    compiled = torch.compile(model, backend="eager")
    assert plain_model(compiled) is model
    tensors = all_tensors(compiled)
    assert list(tensors) == expected and "2.weight" in expected and "computed" not in expected
    assert list(without_aliases(tensors)) == [name for name in expected if name != "2.weight"]
    assert tensors["0.bias"] is model[0].bias


def test_generators():
    state = rng_state()

    def draw():
        return random.random(), np.random.random(), np.random.normal(), torch.rand(2).tolist(), random.gauss()

    first = draw()
    set_rng_state(state)
    assert draw() == first != draw()


def test_optimizer_state_goes_by_names():
    """Also scalars, state that is no tensor, and a learning rate that is one, which a compiled step has captured."""
    model = nn.Linear(3, 2)
    model.scale = nn.Parameter(torch.tensor(2.0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.5), capturable=False, foreach=False)
    (model.scale * model(torch.ones(1, 3))).sum().backward()
    optimizer.step()
    optimizer.state[model.bias]["history"] = [1, 2]
    tensors, rest = optimizer_tensors(optimizer, names_of(model)), optimizer_rest(optimizer, names_of(model))
    assert sorted(tensors) == ["exp_avg.bias", "exp_avg.weight", "exp_avg_sq.bias", "exp_avg_sq.weight"]
    assert rest["groups"][0]["names"] == ["weight", "bias", "scale"]
    assert sorted(rest["small"]["scale"]) == ["exp_avg", "exp_avg_sq", "step"]

    other = nn.Linear(3, 2)
    other.scale = nn.Parameter(torch.tensor(0.0))
    rate = torch.tensor(0.1)
    fresh = torch.optim.AdamW(other.parameters(), lr=rate, foreach=False)
    loaded = new_optimizer_tensors({name: tensor.dtype for name, tensor in tensors.items()}, all_tensors(other))
    for name, tensor in loaded.items():
        tensor.copy_(tensors[name])
    set_optimizer_state(fresh, all_tensors(other), loaded, rest)
    assert fresh.param_groups[0]["lr"] is rate and rate == 0.5
    for (ours, parameter), (theirs, _) in zip(other.named_parameters(), model.named_parameters(), strict=True):
        expected = optimizer.state[model.get_parameter(theirs)]
        assert fresh.state[parameter].keys() == expected.keys(), ours
        for key, value in expected.items():
            assert bool((torch.as_tensor(fresh.state[parameter][key]) == torch.as_tensor(value)).all()), (ours, key)


def test_state_of_unknown_parameters_is_refused():
    optimizer = torch.optim.SGD([*nn.Linear(2, 2).parameters(), *nn.Linear(2, 2).parameters()])
    with pytest.raises(ValueError, match=r"4 of 4 parameters in a group of the optimizer are not in the model"):
        optimizer_rest(optimizer, {})
