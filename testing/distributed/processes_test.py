"""The tree of processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from testing.distributed.processes import descendants, has_ended, process_start, state_of, thread_names

_SLEEP = [sys.executable, "-c", "import time; print(flush=True); time.sleep(100)"]

# Adopts a grandchild whose parent has gone, and a stubborn child; says whether anything survived.
_KILLS = """
import os, signal, subprocess, sys, time
from testing.distributed.processes import adopt_orphans, descendants, kill_descendants
adopt_orphans()
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(100)
    os._exit(0)
os.wait()
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
before = len(descendants(os.getpid()))
print(before, kill_descendants(), descendants(os.getpid()))
"""

# Dies after its child has asked to follow it.
_FOLLOWED = """
import os, signal, sys, time
from testing.distributed.processes import die_with_parent
reader, writer = os.pipe()
parent = os.getpid()
pid = os.fork()
if pid == 0:
    die_with_parent(parent, signal.SIGKILL)
    os.write(writer, b".")
    time.sleep(100)
os.read(reader, 1)
print(pid, flush=True)
"""


def run(source):
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", source], env=env, check=True, capture_output=True, text=True).stdout


def test_kill_descendants_reaches_adopted_ones():
    assert run(_KILLS) == "2 [] []\n"


def test_die_with_parent():
    pid = int(run(_FOLLOWED))
    until = time.monotonic() + 5
    while not has_ended(pid) and time.monotonic() < until:
        time.sleep(0.01)
    assert has_ended(pid)


def test_has_ended(monkeypatch):
    with subprocess.Popen(_SLEEP, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert not has_ended(child.pid)

        def reaped_meanwhile(path):
            with path.open() as file:
                child.kill()
                os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
                monkeypatch.undo()
                assert has_ended(child.pid), "a zombie"
                child.wait()
                return file.read()

        monkeypatch.setattr(Path, "read_text", reaped_meanwhile)
        assert has_ended(child.pid), "reaped between the opening of its file and the reading"
    assert has_ended(child.pid), "gone"


def test_descendants_and_states():
    with subprocess.Popen(_SLEEP, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert child.pid in descendants(os.getpid())
        child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        assert state_of(child.pid) == "stopped (T)"
        child.kill()
    assert child.pid not in descendants(os.getpid())
    assert state_of(child.pid) == "gone"


def test_process_start():
    before = time.time()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        started = process_start(child.pid)
        child.kill()
    assert abs(started - before) < 0.5
    assert process_start() < before


def test_thread_names():
    assert len(thread_names()) == len(os.listdir("/proc/self/task"))
