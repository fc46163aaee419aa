import io

from rich.console import Console

from tools.remote.status import assemble
from tools.remote.status_example import WANTED, facts
from tools.remote.status_table import show


def shown(**changes):
    console = Console(file=io.StringIO(), width=140, highlight=False)
    show(assemble(WANTED, facts(**changes)), console)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_all_three_tables():
    lines = shown()
    assert lines[0] == "healthy grpc://127.0.0.1:50051, blobs take 1.23 GB of 30G"
    assert "cpu 2 of 2 1 3 40 s 13 completed, 1 failed" in lines
    assert "cpu-1 - busy since 12 s 10% 7 2 //trainers/data:packing_test" in lines
    assert "gpu-1 0 idle 0% 0 0 -" in lines
    assert "casd running 10 min restarted 2 times, last 2 min ago (terminated by SIGKILL)" in lines


def test_what_is_wrong_comes_first():
    lines = shown(processes=None, jobs=None, answers=False)
    assert lines[0].startswith("down ")
    assert lines[1] == "! the cluster is down: bring it up (`up`)"
