"""The bounds hold what they promise, on both sides."""

import pytest
import torch

from testing.tolerances.tolerances import assert_close, tolerance_of

PRECISIONS = [torch.float64, torch.float32, torch.bfloat16]


def test_bounds_are_those_of_the_specification():
    assert tolerance_of(torch.float32) == (1e-5, 1e-6)
    assert tolerance_of(torch.bfloat16) == (1e-1, 1e-2)


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize("value", [0.0, 1.0, -100.0])
def test_within_passes_and_beyond_fails(dtype, value):
    rtol, atol = tolerance_of(dtype)
    bound = atol + rtol * abs(value)
    # Held in fp64, so that the bound itself is not rounded.
    expected = torch.tensor([value], dtype=torch.float64)
    assert_close(expected + 0.9 * bound, expected, computed_in=dtype)
    with pytest.raises(AssertionError, match="my tensor: "):
        assert_close(expected + 1.1 * bound, expected, "my tensor", computed_in=dtype)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (torch.zeros(2), torch.zeros(1)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16)),
        (torch.tensor([float("nan")]), torch.tensor([float("nan")])),
    ],
    ids=["shape", "dtype", "nan"],
)
def test_other_differences_fail(actual, expected):
    with pytest.raises(AssertionError):
        assert_close(actual, expected)


def test_unknown_dtype_is_named():
    with pytest.raises(ValueError, match=r"float16.*bfloat16"):
        tolerance_of(torch.float16)
