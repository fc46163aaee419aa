"""Dead, hung and deadlocked ranks: the test fails in time, tells where each rank stood, and the next test runs."""

import time

import pytest

from testing.distributed.inner import run_inner
from testing.distributed.processes import process_start

pytest_plugins = ["pytester"]

_NEXT = """
@distributed_test(2)
def test_next():
    dist.barrier()
"""


@pytest.mark.parametrize(
    ("death", "told"),
    [
        ("os._exit(3)", "ended its process with exit code 3 before its test was done"),
        ("os._exit(0)", "ended its process with exit code 0 before its test was done"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL before its test was done"),
        ("ctypes.string_at(0)", "was killed by SIGSEGV before its test was done"),
    ],
)
def test_dead_rank(pytester, death, told):
    result = run_inner(
        pytester,
        f"""
@distributed_test(2, timeout=30)
def test_it(rank):
    if rank == 1:
        print("last words")
        {death}
    dist.barrier()
"""
        + _NEXT,
    )
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines([f"--- rank 1: {told}", "--- rank 0: failed", "E *Connection*by peer*"])
    result.stdout.fnmatch_lines(["[[]rank 1] last words"])
    if "string_at" in death:
        result.stdout.fnmatch_lines(["    ctypes.string_at(0)"])
    assert result.duration < 20


def run_timed(pytester, source):
    """Run one test that hangs and ``_NEXT``; return the result and the seconds that they took on a warm server."""
    run_inner(pytester, _NEXT).assert_outcomes(passed=1)
    start = time.monotonic()
    result = run_inner(pytester, source + _NEXT)
    return result, time.monotonic() - start


def test_hung_rank(pytester):
    result, seconds = run_timed(
        pytester,
        """
@distributed_test(3, timeout=3)
def test_it(rank):
    if rank == 1:
        time.sleep(100)
    dist.broadcast(torch.ones(3), 0)
    dist.barrier()
""",
    )
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        [
            "3 of 3 ranks did not end",
            "--- rank 0: still ran when the timeout of 3 s ended, in b*",
            '  File "*inner_test.py", line *, in test_it',
            "--- rank 1: still ran when the timeout of 3 s ended, in no collective",
            "    time.sleep(100)",
        ]
    )
    assert "broadcast(Float[3])" in result.stdout.str()
    assert 2.5 < seconds < 10


def test_deadlock(pytester):
    result, seconds = run_timed(
        pytester,
        """
@distributed_test(3, timeout=3)
def test_it(rank):
    if rank == 0:
        dist.all_gather_object([None] * 3, "x")
    elif rank == 1:
        dist.all_reduce(torch.ones(3, 5))
    else:
        functional = torch.distributed._functional_collectives
        functional.all_reduce(torch.ones(7, dtype=torch.int32), "sum", dist.group.WORLD) + 1
""",
    )
    result.assert_outcomes(failed=1, passed=1)
    output = result.stdout.str()
    assert "in all_gather_object: all_gather(Long[1]), number 1 of group 'default_pg'" in output
    assert "in all_reduce(Float[3, 5]), number 1 of group 'default_pg'" in output
    assert "all_reduce(Int[7]), number 1 of group 'default_pg'" in output
    assert 2.5 < seconds < 10


def test_deadlock_in_a_group_of_the_mesh(pytester):
    result, _ = run_timed(
        pytester,
        """
@distributed_test(4, tp=2, timeout=3)
def test_it(rank, mesh):
    if rank != 3:
        dist.all_reduce(torch.ones(2), group=mesh.get_group("tp"))
""",
    )
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["--- rank 2: still ran*, in all_reduce(Float[[]2]), number 1 of group 'mesh_tp'*"])
    result.stdout.no_fnmatch_line("--- rank 0*")


def test_ranks_that_cannot_run_python(pytester):
    result, seconds = run_timed(
        pytester,
        """
@distributed_test(2, timeout=3)
def test_it(rank):
    if rank == 0:
        ctypes.PyDLL(None).sleep(100)  # holds the interpreter's lock
    else:
        os.kill(os.getpid(), signal.SIGSTOP)
""",
    )
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        [
            "--- rank 0: still ran when the timeout of 3 s ended, in no collective",
            "    ctypes.PyDLL(None).sleep(100)*",
            "--- rank 1: still ran*",
            "  (it wrote no stack; its process is stopped (T))",
        ]
    )
    assert 2.5 < seconds < 10


def test_hung_teardown(pytester):
    result, _ = run_timed(
        pytester,
        """
@distributed_test(2, timeout=4)
def test_it(rank, monkeypatch):
    if rank == 1:
        dist.destroy_process_group = lambda: time.sleep(100)
""",
    )
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["1 of 2 ranks did not end", "--- rank 1: did not get out of destroy_process_group, *"])


def test_death_in_teardown(pytester):
    result, _ = run_timed(
        pytester,
        """
@distributed_test(2, timeout=30)
def test_it(rank):
    if rank == 1:
        dist.destroy_process_group = lambda: os.kill(os.getpid(), signal.SIGABRT)
""",
    )
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["1 of 2 ranks failed", "--- rank 1: was killed by SIGABRT after its test was done"])


def test_limit_of_the_bazel_target(pytester, monkeypatch):
    age = time.time() - process_start()
    # A tenth of the limit, at most 10 s, is kept for reports; before that come 3 s.
    monkeypatch.setenv("TEST_TIMEOUT", str(min((age + 3) / 0.9, age + 13)))
    result, seconds = run_timed(
        pytester,
        """
@distributed_test(2, timeout=60)
def test_it():
    time.sleep(100)
""",
    )
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["--- ranks 0, 1: still ran when the target's TEST_TIMEOUT of * s was nearly over*"])
    result.stdout.fnmatch_lines(["*no time left to start ranks: the target's TEST_TIMEOUT of*"])
    assert seconds < 10
