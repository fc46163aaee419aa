"""Pytest's side of the fork server: started with the first launch, used by all, gone with the process."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

from testing.distributed.channel import Channel
from testing.distributed.reference import ModuleRef
from testing.distributed.server import Preload, Ready, Supervise

# Servers that hold a test's module; a session that comes back to an older module pays its import once more.
_MOST_PRELOADED = 4

_ENVIRONMENT = {
    # A server may not have more than one thread, so libraries may not start pools.
    **dict.fromkeys(["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"], "1"),
    # A module that asks for GPUs when it is imported must not start CUDA, which does not survive a fork.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    # Plugins are for pytest proper.
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
}
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    "from testing.distributed.server import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)


class ForkServer:
    """The server process and those forked from it for single modules."""

    def __init__(self) -> None:
        """Start the process and wait until it serves."""
        self.owner = os.getpid()
        self._channel, theirs = Channel.pair()
        self._log = os.memfd_create("fork-server-log")
        self._preloaded: OrderedDict[ModuleRef, Channel | None] = OrderedDict()
        env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        with open(self._log, "wb", closefd=False) as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(sys.path), str(os.getpid()), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=env | _ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in a terminal is for pytest, which then ends the ranks in order
            )
        theirs.close()
        try:
            ready, _ = self._channel.receive()
        except EOFError:
            self.close()
            raise RuntimeError(f"the fork server of the ranks did not start:\n{self._text}") from None
        if ready.unfit:
            self.close()
            raise RuntimeError(f"the fork server of the ranks cannot be used: {ready.unfit}")

    @property
    def alive(self) -> bool:
        """Whether the process runs and belongs to this process."""
        return self.owner == os.getpid() and self._process.poll() is None

    def supervise(self, home: ModuleRef | None) -> Channel:
        """Fork a supervisor from a server that has ``home`` imported, if that can be; return its connection."""
        channel = self._channel if home is None else self._preload(home) or self._channel
        ours, theirs = Channel.pair()
        channel.send(Supervise(), [theirs.fileno()])
        theirs.close()
        return ours

    def close(self) -> None:
        """End the server and all that it forked."""
        for channel in self._preloaded.values():
            if channel is not None:
                channel.close()
        self._channel.close()
        if self.owner == os.getpid():
            self._process.wait()
        self._text = os.pread(self._log, 1 << 16, 0).decode(errors="replace")
        os.close(self._log)

    def _preload(self, home: ModuleRef) -> Channel | None:
        if home in self._preloaded:
            self._preloaded.move_to_end(home)
            return self._preloaded[home]
        ours, theirs = Channel.pair()
        self._channel.send(Preload(home, sys.path, str(Path.cwd())), [theirs.fileno()])
        theirs.close()
        self._preloaded[home] = ours if _fit(ours) else None
        while len(self._preloaded) > _MOST_PRELOADED:
            _, oldest = self._preloaded.popitem(last=False)
            if oldest is not None:
                oldest.close()
        return self._preloaded[home]


def _fit(channel: Channel) -> bool:
    try:
        ready: Ready = channel.receive()[0]
    except EOFError:
        ready = Ready("it died")
    if ready.unfit:
        channel.close()
    return ready.unfit is None


_server: ForkServer | None = None


def supervisor(home: ModuleRef | None) -> Channel:
    """Fork a supervisor and return the connection to it, starting the server if it does not run.

    Args:
        home: module to import before the ranks fork; None to leave that to each rank.
    """
    global _server
    for _ in range(2):
        if _server is None or not _server.alive:
            _discard()
            _server = ForkServer()
        try:
            return _server.supervise(home)
        except EOFError:  # it died since the last launch
            _discard()
    raise RuntimeError("the fork server of the ranks dies as soon as it is used")


def _discard() -> None:
    global _server
    if _server is not None:
        _server.close()
    _server = None


atexit.register(_discard)
