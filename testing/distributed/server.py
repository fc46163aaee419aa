"""The process that ranks are forked from: torch is imported, one thread runs, no device has been touched.

It serves requests of the pytest process that started it, each with a connection of its own:

- ``Supervise``: fork a supervisor for one launch;
- ``Preload``: fork another server that has one more module imported. Ranks forked from that one find the module of
  their test imported already, and this one stays as it is.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import pytest
import torch
import torch.distributed

from testing.distributed.channel import Channel
from testing.distributed.processes import adopt_orphans, die_with_parent, kill_descendants, thread_names
from testing.distributed.reference import ModuleRef
from testing.distributed.supervisor import supervise


@dataclass(frozen=True)
class Supervise:
    """Request: fork a supervisor that listens on the connection sent along."""


@dataclass(frozen=True)
class Preload:
    """Request: fork a server that listens on the connection sent along, after it has imported ``module``."""

    module: ModuleRef
    path: list[str]
    cwd: str


@dataclass(frozen=True)
class Ready:
    """A server's first message: it serves, or ``unfit`` says why ranks must not be forked from it."""

    unfit: str | None


def main(parent: int, fd: int) -> NoReturn:
    """Serve in this process, a fresh interpreter started by ``parent``, over the socket ``fd``."""
    channel = Channel.from_fd(fd)
    _guard(parent)
    torch.set_num_threads(1)
    _warm_up()
    # Inside pytest, so that test modules are imported with its import hook: failing asserts explain themselves.
    plugin = _Inside(lambda: _serve(channel))
    options = ["-c", os.devnull, "--rootdir", os.getcwd(), "--noconftest", "--capture=no", "-p", "no:cacheprovider"]
    pytest.main(options, plugins=[plugin])
    raise AssertionError("a server never returns")


def _warm_up() -> None:
    """Have torch import what it imports late and most tests use: half a second each, in every rank otherwise."""
    zero = torch.zeros(1)
    torch.testing.assert_close(zero, zero)  # sympy
    torch.optim.SGD([zero])  # torch._dynamo


class _Inside:
    """A pytest plugin that runs a function instead of a test session."""

    def __init__(self, body: Callable[[], NoReturn]) -> None:
        self._body = body

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self) -> NoReturn:
        self._body()


def _guard(parent: int) -> None:
    """End with the parent, taking along whatever runs below."""
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: _end())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors need no reaping: they report over their connection
    die_with_parent(parent, signal.SIGTERM)


def _end() -> NoReturn:
    kill_descendants()
    os._exit(0)


def _serve(channel: Channel) -> NoReturn:
    try:
        # Forked processes share these pages until they write to them: keep the collector away from them.
        gc.collect()
        gc.freeze()
        channel.send(Ready(_unfit()))
        while True:
            request, (fd,) = channel.receive()
            parent = os.getpid()
            if os.fork() == 0:
                channel.close()
                _branch(parent, request, Channel.from_fd(fd))
            os.close(fd)
    except EOFError:
        _end()
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _branch(parent: int, request: Supervise | Preload, channel: Channel) -> NoReturn:
    try:
        if isinstance(request, Supervise):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            supervise(parent, channel)
        _guard(parent)
        os.chdir(request.cwd)
        sys.path[:] = request.path
        # A module that cannot be imported here fails again in the rank, and is reported from there.
        _import(request.module)
        _serve(channel)
    finally:
        os._exit(1)


def _import(module: ModuleRef) -> None:
    try:
        module.load()
    except BaseException:
        sys.modules.pop(module.name, None)


def _unfit() -> str | None:
    threads = thread_names()
    if len(threads) > 1:
        return f"it runs {len(threads)} threads ({', '.join(threads)}), of which a fork copies only one"
    if torch.cuda.is_initialized():
        return "it has initialised CUDA, which does not survive a fork"
    return None
