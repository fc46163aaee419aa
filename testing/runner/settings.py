"""How pytest and hypothesis behave in every run of this repo, under Bazel or not."""

import importlib
import importlib.util
import os
import tempfile

import pytest

from testing.runner.target import HARDWARE, TIERS

# Every warning is an error. Each exception says whose warning it is and why we cannot mend it.
WARNING_FILTERS = (
    "error",
    # torch, on a GPU: autograd's thread may come to cuBLAS before it has made the device's context its own; torch then
    # does that, says so, and goes on.
    "ignore:Attempting to run cuBLAS, but there was no current CUDA context:UserWarning",
    # torch's compiler, on a GPU: advice to round products of fp32 matrices, which we do not want.
    "ignore:TensorFloat32 tensor cores for float32 matrix multiplication available:UserWarning",
    # torch's compiler, 2.11: it looks at the gradient of every input, also of inputs that have none.
    "ignore:The .grad attribute of a Tensor that is not a leaf Tensor is being accessed:UserWarning",
    # torch's compiler, 2.11: it makes an object of an autograd function that it traces, such as flash-attn's.
    "ignore:<class 'torch.autograd.function.Function'> should not be instantiated:DeprecationWarning",
    # torch's compiler, when it is loaded: parts of torch itself use what torch has deprecated.
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",
    # flash-attn 4: its kernels are written with functions that its compiler, CuTe, has deprecated.
    "ignore:`make_fragment` is deprecated:DeprecationWarning",
    # DeepSpeed: collectives by the names that they have in every torch that it supports.
    "ignore:`torch.distributed.(all_gather_into|reduce_scatter)_tensor` is deprecated:FutureWarning",
)

# No dependency, so imported by name: only tests that use it have it, and pay for it.
_HYPOTHESIS = "hypothesis"

MARKERS = (
    *(f"{tier}: tier, set from the trainer_test declaration" for tier in TIERS),
    *(f"{hardware}: hardware, set from the trainer_test declaration" for hardware in HARDWARE),
    "multi_gpu: needs two GPUs or more, set from the trainer_test declaration",
    "world_size(n): ranks of this test; on accelerators it needs as many devices",
)


def configure(config: pytest.Config) -> None:
    """Applies the settings to a pytest run."""
    for line in WARNING_FILTERS:
        config.addinivalue_line("filterwarnings", line)
    for line in MARKERS:
        config.addinivalue_line("markers", line)
    _make_hypothesis_deterministic()


def _make_hypothesis_deterministic() -> None:
    """The same examples in each run, nothing kept between runs, no limit on a loaded machine's time per example."""
    if importlib.util.find_spec(_HYPOTHESIS) is None:
        return
    os.environ.setdefault(
        "HYPOTHESIS_STORAGE_DIRECTORY", os.path.join(tempfile.gettempdir(), f"hypothesis-{os.getuid()}")
    )
    hypothesis = importlib.import_module(_HYPOTHESIS)
    hypothesis.settings.register_profile(
        "trainyard",
        database=None,
        deadline=None,
        derandomize=True,
        print_blob=True,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("trainyard")
