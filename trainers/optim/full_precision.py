"""Products of fp32 matrices in fp32, whatever is allowed elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Multiply fp32 matrices without TF32 or bf16 inside; afterwards as before. Also a decorator.

    This asks each backend by itself, because torch's one switch for all of them raises where a program has set one.
    """
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
