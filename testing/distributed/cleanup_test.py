"""Nothing is left behind: processes, shared memory, files, ports, descriptors."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from testing.distributed import client
from testing.distributed.launch import launch_procs
from testing.distributed.processes import descendants, has_ended
from testing.distributed.verdict import RanksFailed

_ROOT = Path(__file__).parents[2]


def pid():
    dist.barrier()
    return os.getpid(), os.getppid()


def start_daemons():
    """Start a child, and a grandchild whose parent is gone, in a session of its own."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    source = "import os, time\nif os.fork() == 0:\n os.setsid()\n print(os.getpid(), flush=True)\n time.sleep(1000)"
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE) as parent:
        orphan = int(parent.stdout.readline())
    return child.pid, orphan


def leave_shared_memory(name):
    SharedMemory(f"{name}-{dist.get_rank()}", create=True, size=1 << 20)
    tensor = torch.ones(1 << 18).share_memory_()
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()
    return tensor.sum().item()


def listening():
    """Local addresses, in the kernel's notation, at which this process accepts TCP connections."""
    dist.barrier()
    mine = set()
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one that lists the folder
            mine.add(str(fd.readlink()))
    addresses = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in mine:
                addresses.append(fields[1])
    return addresses


def kill_supervisor():
    if dist.get_rank() == 0:
        os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(100)


def alive(pids):
    return [pid for pid in pids if not has_ended(pid)]


def wait_until_gone(pids, seconds=5.0):
    until = time.monotonic() + seconds
    while alive(pids) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive(pids)


def shared_memory():
    return set(os.listdir("/dev/shm"))


def test_daemons_of_ranks_end_with_the_launch():
    started = [p for pids in launch_procs(start_daemons, 2) for p in pids]
    assert alive(started) == []


def test_no_shared_memory_is_left():
    before = shared_memory()
    name = f"trainyard-{os.getpid()}"
    with pytest.raises(RanksFailed):
        launch_procs(leave_shared_memory, 2, name)
    assert shared_memory() - before == set()


def test_ports_are_on_loopback_and_differ():
    addresses = [address for ours in launch_procs(listening, 4) for address in ours]
    assert addresses, "gloo listens"
    assert all(address.endswith("0100007F") or address.startswith("0100007F:") for address in addresses), addresses
    assert len(set(addresses)) == len(addresses)
    again = [address for ours in launch_procs(listening, 4) for address in ours]
    assert set(again) != set(addresses)


def test_launches_leak_nothing_here():
    launch_procs(pid, 2)
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(30):
        launch_procs(pid, 2)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert client._server is not None
    servers = 1 + sum(preloaded is not None for preloaded in client._server._preloaded.values())
    until = time.monotonic() + 5
    while len(descendants(os.getpid())) > servers and time.monotonic() < until:
        time.sleep(0.02)  # the last supervisor reports and then exits
    assert len(descendants(os.getpid())) == servers, "the server and those that have imported a test's module"


def test_server_runs_one_thread_and_stays():
    launch_procs(pid, 2)
    server = client._server
    assert server is not None
    tasks = os.listdir(f"/proc/{server._process.pid}/task")
    assert len(tasks) == 1
    launch_procs(pid, 2)
    assert client._server is server


def test_dead_server_is_replaced():
    launch_procs(pid, 2)
    server = client._server
    assert server is not None
    server._process.kill()
    server._process.wait()
    assert len(launch_procs(pid, 2)) == 2
    assert client._server is not server


def test_dead_supervisor():
    start = time.monotonic()
    with pytest.raises(RanksFailed, match="ranks 0, 1: was lost: the supervisor of the ranks died"):
        launch_procs(kill_supervisor, 2, timeout=50)
    assert time.monotonic() - start < 10
    assert len(launch_procs(pid, 2)) == 2


_VICTIM = """
import os, subprocess, sys, time
import torch
from multiprocessing.shared_memory import SharedMemory
from testing.distributed.case import distributed_test

@distributed_test(3, timeout=100)
def test_it(rank):
    SharedMemory(f"trainyard-victim-{os.getpid()}", create=True, size=4096)
    torch.ones(1000).share_memory_()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    print("started", flush=True)
    with open(os.environ["VICTIM"], "a") as file:
        file.write(f"{os.getpid()} {os.getppid()} {child.pid}\\n")
    time.sleep(1000)
"""


def test_pytest_killed_by_sigkill(tmp_path):
    before = shared_memory()
    (tmp_path / "victim_test.py").write_text(_VICTIM)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = world_size(n): ranks\n")
    note = tmp_path / "note"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path / "victim_test.py")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path]), "VICTIM": str(note)}
    victim = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, cwd=tmp_path)
    until = time.monotonic() + 40
    while (not note.exists() or note.read_text().count("\n") < 3) and time.monotonic() < until:
        time.sleep(0.05)
    noted = {int(word) for line in note.read_text().splitlines() for word in line.split()}
    assert len(noted) == 7
    below = set(descendants(victim.pid))
    assert noted <= below
    victim.kill()
    victim.wait()
    assert wait_until_gone(below), alive(below)
    assert shared_memory() - before == set()
    left = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert left == {"victim_test.py", "pytest.ini", "note"}
