"""How ranks that fail, skip or warn are reported."""

from testing.distributed.inner import run_inner

pytest_plugins = ["pytester"]


def test_one_rank_raises(pytester):
    result = run_inner(
        pytester,
        """
@distributed_test(4)
def test_it(rank):
    print("hello from", rank)
    print("error stream", file=sys.stderr)
    assert rank != 2, "the odd one"
""",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "1 of 4 ranks failed",
            "--- rank 2: failed",
            "*inner_test.py:*: in test_it",
            "*assert rank != 2*",
            "E   AssertionError: the odd one",
            "E   assert 2 != 2",
            "[[]rank 0] hello from 0",
            "[[]rank 3] hello from 3",
            "[[]rank 3] error stream",
        ]
    )
    result.stdout.no_fnmatch_line("*run_rank*")


def test_a_failure_ends_a_wait_early(pytester):
    result = run_inner(
        pytester,
        """
@distributed_test(3, timeout=50)
def test_it(rank):
    if rank == 1:
        raise KeyError("gone")
    dist.all_reduce(torch.ones(4, 8))
""",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "1 of 3 ranks failed, 2 of 3 ranks did not end",
            "--- rank 1: failed",
            "E   KeyError: 'gone'",
            "--- ranks 0, 2: still ran 3 s after another rank had ended, in all_reduce(Float[[]4, 8]), *",
            "    dist.all_reduce(torch.ones(4, 8))",
            "FAILED *KeyError on ranks*",
        ]
    )
    assert result.duration < 20


def test_equal_tracebacks_are_shown_once(pytester):
    result = run_inner(
        pytester,
        """
@distributed_test(4)
def test_it(rank):
    if rank == 3:
        raise ValueError("another")
    raise ValueError("same")
""",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["4 of 4 ranks failed", "--- ranks 0, 1, 2: failed", "--- rank 3: failed"])
    assert result.stdout.str().count("E   ValueError: same") == 1


def test_skips(pytester):
    result = run_inner(
        pytester,
        """
@distributed_test(2)
def test_all():
    pytest.skip("not today")

@distributed_test(2)
def test_one(rank):
    if rank == 1:
        pytest.skip("not me")

@pytest.mark.skip(reason="by mark")
@distributed_test(2)
def test_mark():
    raise AssertionError

@pytest.mark.skipif(True, reason="whole class")
class TestClass(DistributedTest):
    world_size = 2
    def test_it(self):
        raise AssertionError
""",
    )
    result.assert_outcomes(skipped=3, failed=1)
    result.stdout.fnmatch_lines(
        [
            "rank 1 skipped and not all did: the ranks of a test must agree on that",
            "--- rank 1: skipped",
            "not me",
            "SKIPPED*: not today",
        ]
    )


def test_xfails(pytester):
    result = run_inner(
        pytester,
        """
@pytest.mark.xfail(raises=ValueError, strict=True)
@distributed_test(2)
def test_expected_type(rank):
    if rank == 1:
        raise ValueError

@pytest.mark.xfail(raises=ValueError, strict=True)
@distributed_test(2)
def test_other_type():
    raise KeyError

@pytest.mark.xfail(strict=True)
@distributed_test(2)
def test_strict_but_passes():
    pass

@pytest.mark.xfail(strict=False)
@distributed_test(2)
def test_passes():
    pass

@distributed_test(2)
def test_imperative():
    pytest.xfail("known")

@distributed_test(2)
def test_imperative_on_one(rank):
    if rank == 0:
        pytest.xfail("known")
""",
    )
    result.assert_outcomes(xfailed=2, xpassed=1, failed=3)
    result.stdout.fnmatch_lines(["FAILED *test_other_type*", "FAILED *test_strict_but_passes*"])
    result.stdout.fnmatch_lines(["rank 0 xfailed and not all did*"])


def test_subtests(pytester):
    result = run_inner(
        pytester,
        """
@distributed_test(2)
def test_it(rank, subtests):
    for i in range(4):
        with subtests.test("block", i=i, lock=threading.Lock()):
            assert i != 2 or rank == 0
""",
    )
    result.assert_outcomes(failed=2)  # the subtest and, as pytest does, the test that contains it
    result.stdout.fnmatch_lines(
        [
            "*test_it [[]block] (i=2, lock='<unlocked*",
            "1 of 2 ranks failed",
            "--- rank 1: failed",
            "E   assert (2 != 2 or 1 == 0)",
        ]
    )


def test_subtests_before_a_failure_are_reported(pytester):
    result = run_inner(
        pytester,
        """
@distributed_test(2)
def test_it(subtests):
    with subtests.test("first"):
        assert False, "in the block"
    raise KeyError("after the block")
""",
    )
    result.stdout.fnmatch_lines(["*[[]first]*", "*in the block*", "*after the block*"])
    assert result.ret == 1


def test_warnings_are_errors(pytester):
    result = run_inner(
        pytester,
        """
@distributed_test(2)
def test_it(rank):
    if rank == 1:
        warnings.warn("careful", UserWarning)
""",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["--- rank 1: failed", "E   UserWarning: careful"])


def test_values_that_cannot_travel(pytester):
    result = run_inner(
        pytester,
        """
@pytest.fixture
def lock():
    return threading.Lock()

@distributed_test(2)
def test_fixture(lock, tmp_path):
    pass

class Fragile:
    def __reduce__(self):
        return eval, ("1 / 0",)

@pytest.fixture
def fragile():
    return Fragile()

@distributed_test(2)
def test_rebuild(tmp_path, fragile):
    pass

class TestAttribute(DistributedTest):
    world_size = 2
    def setup_method(self):
        self.handle = threading.Lock()
    def test_it(self):
        pass

@distributed_test(2)
def test_capture(capsys):
    pass
""",
    )
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(
        [
            "E *ValueError: test_fixture: fixture lock cannot be sent to the ranks: <unlocked*cannot pickle*",
            "E   ValueError: fixture fragile cannot be rebuilt on a rank (ZeroDivisionError: division by zero)",
            "E *ValueError: TestAttribute.test_it: attribute handle cannot be sent*",
            "E *ValueError: test_capture: fixture capsys cannot be sent*",
        ]
    )


def test_leaving_python_is_a_failure(pytester):
    result = run_inner(
        pytester,
        """
@distributed_test(2)
def test_exit(rank):
    sys.exit(0)

@distributed_test(2)
def test_interrupt(rank):
    raise KeyboardInterrupt

@distributed_test(2)
def test_pytest_exit(rank):
    pytest.exit("enough")

@distributed_test(2)
def test_next():
    pass
""",
    )
    result.assert_outcomes(failed=3, passed=1)
    result.stdout.fnmatch_lines(["E   SystemExit: 0", "E   KeyboardInterrupt", "E   *Exit: enough"])


def test_a_module_that_cannot_be_forked(pytester):
    result = run_inner(
        pytester,
        """
threading.Thread(target=time.sleep, args=(30,), daemon=True).start()

@distributed_test(2)
def test_it(rank):
    assert threading.active_count() == 2, "imported by the rank itself, which has the thread too"
    assert rank == 0
""",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["1 of 2 ranks failed", "E   assert 1 == 0"])
