import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from tools.affected import run_tests
from tools.affected.run_tests import Plan, Run
from tools.affected.selection import SelectError
from tools.affected.selection import Test as Target
from tools.affected.settings import Settings

SETTINGS = Settings(
    configurations={"cpu": (), "gpu": ("--config=gpu_x8", "--copt=-g")},
    devices={"gpu": {"gpu": 1, "gpu_x2": 2, "gpu_x8": 8}},
    everywhere=("remote", "fleet"),
)
CPU = Target("//a:cpu", ("cpu", "unit"), "cpu")
UNTAGGED = Target("//a:untagged", (), "cpu")
ONE = Target("//a:one", ("gpu", "resources:gpu:1"), "gpu")
TWO = Target("//a:two", ("gpu", "resources:gpu:2"), "gpu")
UNCOUNTED = Target("//a:uncounted", ("gpu",), "gpu")
TESTS = [CPU, ONE, TWO, UNTAGGED, UNCOUNTED]


def test_without_flags_only_tests_of_this_machine_run() -> None:
    assert run_tests.plan(TESTS, SETTINGS, []) == Plan(
        (Run((), ("//a:cpu", "//a:untagged")),),
        {
            "--config=gpu": ("//a:one",),
            "--config=gpu_x2": ("//a:two",),
            "--config=gpu_x8": ("//a:uncounted",),
        },
    )


def test_a_host_runs_what_it_has_devices_for() -> None:
    assert run_tests.plan(TESTS, SETTINGS, ["--config=gpu", "--test_output=all"]) == Plan(
        (
            # (CUDA's wheels would be another configuration than the one these were selected in)
            Run(("--test_output=all",), ("//a:cpu", "//a:untagged")),
            Run(("--copt=-g", "--config=gpu", "--test_output=all"), ("//a:one",)),
        ),
        {"--config=gpu_x2": ("//a:two",), "--config=gpu_x8": ("//a:uncounted",)},
    )


@pytest.mark.parametrize("flags", [["--config=gpu_x8"], ["--config", "gpu_x8"], ["--config=gpu", "--config=gpu_x8"]])
def test_a_large_host_runs_all(flags: list[str]) -> None:
    found = run_tests.plan(TESTS, SETTINGS, flags)
    assert found.elsewhere == {}
    assert found.runs == (
        Run((), ("//a:cpu", "//a:untagged")),
        Run(("--copt=-g", "--config=gpu_x8"), ("//a:one", "//a:two", "//a:uncounted")),
    )


@pytest.mark.parametrize("name", ["remote", "fleet"])
def test_remote_workers_run_all_in_one_call(name: str) -> None:
    flags = ("--jobs", "200", f"--config={name}")
    everyone = ("//a:cpu", "//a:one", "//a:two", "//a:untagged", "//a:uncounted")
    assert run_tests.plan(TESTS, SETTINGS, flags) == Plan((Run(flags, everyone),), {})


def test_a_configuration_without_devices_runs_here_with_its_flags() -> None:
    known = Settings(configurations={"fast": ("--compilation_mode=opt",), "checked": ("--copt=-g",)})
    tests = [Target("//:a", (), "checked"), Target("//:b", (), "fast")]
    assert run_tests.plan(tests, known, ["--keep_going"]).runs == (
        Run(("--compilation_mode=opt", "--keep_going"), ("//:b",)),
        Run(("--copt=-g", "--keep_going"), ("//:a",)),
    )


@pytest.mark.parametrize("flags", [[], ["--config=remote"], ["--config=gpu"]])
def test_no_test_is_lost(flags: list[str]) -> None:
    found = run_tests.plan(TESTS, SETTINGS, flags)
    labels = [label for call in found.runs for label in call.labels]
    labels += [label for away in found.elsewhere.values() for label in away]
    assert sorted(labels) == sorted(test.label for test in TESTS)


@pytest.mark.parametrize("flags", [[], ["--config=remote"]])
def test_nothing_to_run_is_no_call(flags: list[str]) -> None:
    assert run_tests.plan([], SETTINGS, flags) == Plan((), {})


def test_tests_that_do_not_run_here_are_counted_and_named() -> None:
    assert run_tests.missing(run_tests.plan(TESTS, SETTINGS, ["--config=gpu_x2"])) == [
        "NOT run here: 1 that need a host with other hardware. There, pass after `--`",
        "  --config=gpu_x8 for",
        "    //a:uncounted",
    ]
    assert run_tests.missing(run_tests.plan(TESTS, SETTINGS, ["--config=gpu_x8"])) == []


BAZEL = """\
#!/bin/sh
echo "$PWD"
for word in "$@"; do
    case $word in
    --target_pattern_file=*) cat "${word#*=}" ;;
    *) echo "$word" ;;
    esac
done
echo "${BUILD_WORKSPACE_DIRECTORY-unset} ${RUNFILES_DIR-unset} ${HOME:+home}"
case $* in *--status=*) exit "$(echo "$*" | sed 's/.*--status=\\([0-9]*\\).*/\\1/')" ;; esac
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "bazelw").write_text(BAZEL)
    (tmp_path / "bazelw").chmod(0o755)
    return tmp_path


def test_bazel_gets_flags_labels_folder_and_a_clean_environment(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", "elsewhere")
    monkeypatch.setenv("RUNFILES_DIR", "elsewhere")
    monkeypatch.setenv("HOME", "here")
    out = tmp_path_factory.mktemp("out") / "out"
    said: list[str] = []
    with out.open("w") as file:
        bazel = run_tests.bazel_of(workspace)
        status = run_tests.run(Plan((Run(("--a=b c",), ("//:a", "//:b")),), {}), workspace, bazel, said.append, file)
    assert status == 0
    assert out.read_text().splitlines() == [str(workspace), "test", "--a=b c", "//:a", "//:b", "unset unset home"]
    assert said == [f"{workspace}/bazelw test --a=b c (2 tests)"]


@pytest.mark.parametrize(("statuses", "expected"), [((0, 0), 0), ((3, 0), 3), ((0, 3), 3), ((1, 3), 1)])
def test_every_call_is_made_and_the_first_failure_is_the_status(
    workspace: Path, statuses: tuple[int, int], expected: int
) -> None:
    calls = tuple(Run((f"--status={status}",), ("//:a",)) for status in statuses)
    said: list[str] = []
    status = run_tests.run(Plan(calls, {}), workspace, run_tests.bazel_of(workspace), said.append, sys.stderr)
    assert (status, len(said)) == (expected, 2)


def test_bazel_on_path_where_there_is_no_wrapper(tmp_path: Path) -> None:
    assert run_tests.bazel_of(tmp_path) == ("bazel",)


def test_no_bazel_is_an_error_with_its_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SelectError, match="cannot start bazel in .*No such file.*put bazel on PATH"):
        run_tests.run(Plan((Run((), ("//:a",)),), {}), tmp_path, ("bazel",), lambda _: None)


def test_an_interrupt_waits_for_bazel_to_stop_its_tests(workspace: Path) -> None:
    # (Bazel, told by the terminal as well, stops its tests and ends with 8)
    (workspace / "bazelw").write_text("#!/bin/sh\ntrap '' INT\necho started\nread _ < fifo\nexit 8\n")
    os.mkfifo(workspace / "fifo")
    reader, writer = os.pipe()

    def interrupt() -> None:
        with os.fdopen(reader) as started:
            assert started.readline() == "started\n"
            os.kill(os.getpid(), signal.SIGINT)
            (workspace / "fifo").write_text("go\n")

    thread = threading.Thread(target=interrupt)
    thread.start()
    with os.fdopen(writer, "w") as out:
        status = run_tests.run(
            Plan((Run((), ("//:a",)),), {}), workspace, run_tests.bazel_of(workspace), lambda _: None, out
        )
    thread.join()
    assert status == 8
