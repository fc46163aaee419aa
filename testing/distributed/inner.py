"""Runs a pytest inside a test, for tests about tests that fail."""

from __future__ import annotations

import pytest

from testing.distributed import case, launch

_INI = """
[pytest]
addopts = --strict-markers -p no:cacheprovider --import-mode=importlib
markers = world_size(n): ranks of a test
filterwarnings = error
"""
_IMPORTS = f"""
import ctypes, os, signal, subprocess, sys, threading, time, warnings
import pytest, torch
import torch.distributed as dist
from {case.__name__} import DistributedTest, distributed_test
from {launch.__name__} import launch_procs
"""


def run_inner(pytester: pytest.Pytester, source: str, *options: str) -> pytest.RunResult:
    """Run ``source`` as a test file in this process, whose fork server it shares; common names are imported."""
    pytester.makeini(_INI)
    path = pytester.makepyfile(inner_test=_IMPORTS + source)
    return pytester.runpytest_inprocess("-rA", *options, path)
