import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from testing.tolerances.tolerances import assert_close
from trainers.optim.osft_decompose import load_dense_weights, rounds, svd_cost
from trainers.optim.osft_linear import OsftLinear
from trainers.parallel.ranks import RankError


def layer(in_features=6, out_features=4, device=None):
    return OsftLinear.in_place_of(nn.Linear(in_features, out_features, device=device), 2)


@given(
    st.lists(st.integers(1, 1000), max_size=20).map(lambda costs: {f"w{n}": cost for n, cost in enumerate(costs)}),
    st.integers(1, 8),
)
def test_rounds_share_the_work(costs, num_ranks):
    shared = rounds(costs, num_ranks)
    assert sorted(name for names in shared for name in names) == sorted(costs)
    assert all(1 <= len(names) <= num_ranks for names in shared)
    assert shared == rounds(dict(reversed(costs.items())), num_ranks)  # the same on every rank
    # A round ends with its dearest job.
    duration = sum(max(costs[name] for name in names) for names in shared)
    assert duration <= sum(costs.values()) / num_ranks + max(costs.values(), default=0)


def test_cost():
    assert svd_cost((3, 5)) == svd_cost((5, 3)) == 3 * 5 * 3


def test_each_weight_is_read_once():
    class Lazy(dict):
        def __getitem__(self, name):
            return self.pop(name)  # (a second time is a KeyError)

    # (in fp64: an entry near zero is off by a rounding of the largest ones)
    layers = {"small": layer().double(), "large": layer(9, 8).double()}
    weights = {name: torch.randn(each.out_features, each.in_features).double() for name, each in layers.items()}
    load_dense_weights(layers, Lazy(weights))
    for name, each in layers.items():
        assert_close(each.dense_weight(), weights[name], name)


def test_a_checkpoint_in_bf16_is_decomposed_in_fp32():
    torch.manual_seed(0)
    each, weight = layer(), torch.randn(4, 6).bfloat16()
    load_dense_weights({"layer": each}, {"layer": weight})
    assert_close(each.dense_weight(), weight.float())


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ({}, ValueError, "no dense weight is given for layer"),
        ({"layer": torch.zeros(6, 4)}, RankError, r"weight of layer is \(6, 4\), the layer needs \(4, 6\)"),
        ({"layer": torch.full((4, 6), torch.inf)}, ValueError, "the weight of layer has entries that are not finite"),
    ],
)
def test_weights_that_do_not_do(weights, error, message):
    with pytest.raises(error, match=message):
        load_dense_weights({"layer": layer()}, weights)


def test_factors_on_meta():
    with pytest.raises(ValueError, match=r"factors of layer are on meta: call to_empty"):
        load_dense_weights({"layer": layer(device="meta")}, {"layer": torch.zeros(4, 6)})
