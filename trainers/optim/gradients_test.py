import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trainers.optim.gradients import clip_gradients, global_norm

SHAPES = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), max_size=5)


def parameters(shapes, scale=1.0, dtype=torch.float32):
    generator = np.random.default_rng(0)
    made = []
    for shape in shapes:
        made.append(nn.Parameter(torch.zeros(shape, dtype=dtype)))
        made[-1].grad = torch.from_numpy(np.asarray(generator.normal(size=shape) * scale)).to(dtype)
    return made


@given(SHAPES, st.sampled_from([1e-3, 1.0, 1e3]), st.sampled_from([0.5, 1.0, float("inf")]))
def test_clipping(shapes, scale, max_norm):
    given_parameters = parameters(shapes, scale)
    before = np.concatenate([np.zeros(0), *(p.grad.numpy().ravel().astype(np.float64) for p in given_parameters)])
    norm = clip_gradients([*given_parameters, nn.Parameter(torch.zeros(3))], max_norm)
    after = np.concatenate([np.zeros(0), *(p.grad.numpy().ravel() for p in given_parameters)])
    expected = np.linalg.norm(before)
    assert norm.shape == () and norm.dtype == torch.float32
    assert float(norm) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(after, before * min(1, max_norm / max(expected, 1e-30)), rtol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_norm_that_is_not_finite_scales_nothing(bad):
    good, broken = parameters([(2,), (2,)], scale=100.0)
    broken.grad[1] = bad
    before = good.grad.clone()
    assert not clip_gradients([good, broken], 1.0).isfinite()
    assert torch.equal(good.grad, before)


def test_gradients_in_bf16_are_measured_in_fp32():
    (parameter,) = parameters([(1000,)], dtype=torch.bfloat16)
    assert float(global_norm([parameter.grad])) == pytest.approx(float(parameter.grad.double().norm()), rel=1e-6)
