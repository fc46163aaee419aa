import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tools.affected import main, selector
from tools.affected.explain import Explanation
from tools.affected.selection import Affected, SelectError, Selection, Side
from tools.affected.selection import Test as Target

CPU = Affected(Target("//a:cpu", ("cpu", "unit"), "cpu", "cpu"), "content", ("a/x.py",))
GPU = Affected(Target("//a:gpu", ("gpu", "resources:gpu:2", "subsystem"), "gpu", "multi-gpu"), "new")
SIDES = Side("merge base", "1" * 40, False), Side("working tree", "2" * 40, False)
SOME = Selection(*SIDES, (CPU, GPU), ())
NOTHING = Selection(*SIDES, (), (CPU.test, GPU.test))
BLIND = Selection(*SIDES, (CPU, GPU), (), everything="base does not load")
PYPROJECT = """
[tool.affected]
main_branch = "trunk"
configurations = { cpu = [], gpu = ["--config=gpu_x2"] }
devices = { gpu = { gpu_x2 = 2 } }
"""


class Core:
    """In place of the selector: keeps what it is asked, answers what the test says."""

    def __init__(self) -> None:
        self.answer: Selection | SelectError = SOME
        self.asked: list[tuple[Path, str | None, str | None, selector.Options]] = []

    @contextlib.contextmanager
    def selecting(self, root, base, head, options, say) -> Iterator["Core"]:
        self.asked.append((root, base, head, options))
        say("asking Bazel")
        yield self

    def selection(self) -> Selection:
        if isinstance(self.answer, SelectError):
            raise self.answer
        return self.answer

    def distances(self) -> dict[str, int]:
        return {"//a:cpu": 4, "//a:gpu": 1}

    def explain(self, label: str) -> Explanation:
        return Explanation(label, "unknown" if "none" in label else "affected", ("a file differs:", "a/x.py"))


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Core:
    made = Core()
    monkeypatch.setattr(selector, "selecting", made.selecting)
    return made


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace whose `bazelw` notes what it is told and ends with the status in the file `status`."""
    (tmp_path / "MODULE.bazel").touch()
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "status").write_text("0")
    (tmp_path / "bazelw").write_text(
        "#!/bin/sh\necho bazel says\n"
        'for word; do case $word in *file=*) cat "${word#*=}";; *) echo "$word";; esac; done >>calls\n'
        'exit "$(cat status)"\n'
    )
    (tmp_path / "bazelw").chmod(0o755)
    monkeypatch.setenv("BUILD_WORKSPACE_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("BUILD_WORKING_DIRECTORY", str(tmp_path / "sub"))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main.app, list(arguments))


def test_defaults_reach_the_selector(core: Core, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert run().exit_code == 0
    assert core.asked == [
        (
            workspace,
            None,
            None,
            selector.Options(
                bazel=(f"{workspace}/bazelw",),
                configurations={"cpu": (), "gpu": ("--config=gpu_x2",)},
                cache=Path("/cache/trainyard/affected"),
                main_branch="trunk",
                strict=False,
            ),
        )
    ]


def test_options_reach_the_selector(core: Core, workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "WORKSPACE").touch()
    assert run("--base=b", "--head=h", "--strict", "--cache=kept", f"--workspace={other}").exit_code == 0
    ((root, base, head, options),) = core.asked
    assert (root, base, head, options.strict) == (other, "b", "h", True)
    assert options.cache == workspace / "sub/kept"  # where the caller stands
    assert options.configurations == {"default": ()}


def test_table(core: Core, workspace: Path) -> None:
    result = run()
    assert "//a:cpu   unit        cpu        content: a/x.py" in result.stdout
    assert "2 affected: 2 to run, 0 filtered out" in result.stdout
    assert result.stderr == "affected: asking Bazel\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "//a:cpu\n//a:gpu\n"),
        (("--tier=unit,lint",), "//a:cpu\n"),
        (("--tier=unit", "--tier=subsystem"), "//a:cpu\n//a:gpu\n"),
        (("--hardware=gpu",), "//a:gpu\n"),
        (("--test-tag-filters=-gpu",), "//a:cpu\n"),
        (("--distance",), "//a:gpu\n//a:cpu\n"),
        (("--max-distance=3",), "//a:gpu\n"),
        (("--tier=smoke",), ""),
    ],
)
def test_stdout_is_the_answer_alone(core: Core, workspace: Path, arguments: tuple[str, ...], expected: str) -> None:
    result = run("--output=labels", *arguments)
    assert (result.exit_code, result.stdout) == (0, expected)


@pytest.mark.parametrize(("output", "empty"), [("labels", ""), ("matrix", '{"include":[]}\n')])
def test_nothing_affected_is_an_answer(core: Core, workspace: Path, output: str, empty: str) -> None:
    core.answer = NOTHING
    result = run(f"--output={output}")
    assert (result.exit_code, result.stdout) == (0, empty)
    assert result.stderr.splitlines()[-1] == "affected: nothing is affected; 2 unaffected"


def test_json_and_matrix_parse(core: Core, workspace: Path) -> None:
    assert [entry["label"] for entry in json.loads(run("--output=json").stdout)["affected"]] == ["//a:cpu", "//a:gpu"]
    assert [entry["name"] for entry in json.loads(run("--output=matrix").stdout)["include"]] == [
        "unit-cpu",
        "subsystem-multi-gpu",
    ]


@pytest.mark.parametrize("output", ["labels", "json", "matrix"])
def test_everything_is_loud_beside_the_answer(core: Core, workspace: Path, output: str) -> None:
    core.answer = BLIND
    result = run(f"--output={output}")
    assert "affected: EVERYTHING is taken, all 2 tests of head: base does not load\n" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tier=units",), "--tier=units: not one of lint, unit"),
        (("--hardware=tpu",), "--hardware=tpu: not one of cpu, gpu, trainium"),
        (("--test-tag-filters=small",), "--test-tag-filters=small: small: Bazel derives"),
        (("--workspace=nowhere",), "sub/nowhere is no Bazel workspace (no MODULE.bazel)"),
        (("--", "--jobs=3"), "--jobs=3: Bazel's flags are for running tests; add --test before `--`"),
        (("--explain=//a:b", "--why-not=//a:b"), "take one at a time"),
        (("--explain=//a:b", "--test"), "take one at a time"),
        (("--explain=//a:none",), "//a:none: a file differs"),
    ],
)
def test_an_error_is_one_line_and_status_2(
    core: Core, workspace: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "affected: error: " in result.stderr and message in result.stderr
    assert "Traceback" not in result.stderr


def test_an_error_of_the_selector_is_no_answer(core: Core, workspace: Path) -> None:
    core.answer = SelectError("head does not load")
    result = run("--output=matrix", "--test")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1] == "affected: error: head does not load"
    assert not (workspace / "calls").exists()


@pytest.mark.parametrize(
    ("given", "label"),
    [("//a:b", "//a:b"), ("//a/b", "//a/b:b"), ("a/b", "//a/b:b"), ("@//a:b", "//a:b"), ("a:b", "//a:b")],
)
@pytest.mark.parametrize("option", ["--explain", "--why-not"])
def test_explanations(core: Core, workspace: Path, option: str, given: str, label: str) -> None:
    result = run(f"{option}={given}")
    assert (result.exit_code, result.stdout) == (0, f"{label}: affected\n  a file differs:\n  a/x.py\n")
    assert json.loads(run(f"{option}={given}", "--output=json").stdout)["label"] == label


def test_tests_run_here_or_are_named(core: Core, workspace: Path) -> None:
    result = run("--test", "--", "--test_output=all")
    assert (workspace / "calls").read_text().split() == ["test", "--test_output=all", "//a:cpu"]
    assert result.exit_code == 0
    assert "NOT run here: 1 that need a host" in result.stderr
    assert "  --config=gpu_x2 for\naffected:     //a:gpu\n" in result.stderr


def test_flags_after_the_dashes_choose_the_hardware(core: Core, workspace: Path) -> None:
    result = run("--test", "--hardware=gpu", "--", "--config=gpu_x2")
    assert (workspace / "calls").read_text().split() == ["test", "--config=gpu_x2", "//a:gpu"]
    assert "NOT run here" not in result.stderr


@pytest.mark.parametrize("status", [1, 3, 8])
def test_the_status_is_bazels(core: Core, workspace: Path, status: int) -> None:
    (workspace / "status").write_text(str(status))
    assert run("--test").exit_code == status


@pytest.mark.parametrize("arguments", [(), ("--tier=smoke",)])
def test_nothing_to_run_starts_no_bazel(core: Core, workspace: Path, arguments: tuple[str, ...]) -> None:
    core.answer = NOTHING if not arguments else SOME
    result = run("--test", *arguments)
    assert result.exit_code == 0
    assert result.stderr.splitlines()[-1] == "affected: nothing to run here"
    assert not (workspace / "calls").exists()


def test_a_machines_answer_has_no_word_of_bazels(
    core: Core, workspace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main.app(["--test", "--output=labels"])
    out, err = capfd.readouterr()
    assert ended.value.code == 0
    assert out == "//a:cpu\n//a:gpu\n"
    assert "bazel says" in err
