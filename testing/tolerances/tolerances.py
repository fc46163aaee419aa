"""How close two results in the same precision must be: one table for the whole repo."""

from typing import NamedTuple

import torch
from torch import Tensor


class Tolerance(NamedTuple):
    """Bound on a difference: ``|actual - expected| <= atol + rtol * |expected|``."""

    rtol: float
    atol: float


_TOLERANCES = {
    torch.float64: Tolerance(rtol=1e-12, atol=1e-13),
    torch.float32: Tolerance(rtol=1e-5, atol=1e-6),
    torch.bfloat16: Tolerance(rtol=1e-1, atol=1e-2),
}


def tolerance_of(dtype: torch.dtype) -> Tolerance:
    """The bound for results that were computed in ``dtype``.

    Raises:
        ValueError: no bound is set for this dtype.
    """
    if dtype not in _TOLERANCES:
        raise ValueError(f"no tolerance is set for {dtype}; there is one for {', '.join(map(str, _TOLERANCES))}")
    return _TOLERANCES[dtype]


def assert_close(actual: Tensor, expected: Tensor, what: str = "", computed_in: torch.dtype | None = None) -> None:
    """Assert that two tensors agree in shape, dtype, device and, within the bound, in value. NaN agrees with nothing.

    Args:
        actual: what is tested.
        expected: what it must be, of the same shape and dtype.
        what: name of the tensor, for the message.
        computed_in: dtype that sets the bound; default the dtype of ``expected``. Give it where a result of high
            precision was computed from values of low precision.

    Raises:
        AssertionError: they differ; the message says where most, and by how much.
    """
    rtol, atol = tolerance_of(expected.dtype if computed_in is None else computed_in)
    torch.testing.assert_close(
        actual, expected, rtol=rtol, atol=atol, equal_nan=False, msg=lambda text: f"{what}: {text}" if what else text
    )
