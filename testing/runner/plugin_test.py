import os
import sys
from pathlib import Path

import pytest

from testing.runner import plugin

pytest_plugins = ["pytester"]

ROOT = Path(plugin.__file__).parents[2]
INI = """
[pytest]
addopts = --import-mode=importlib --strict-markers --strict-config -p no:cacheprovider
python_files = *_test.py
pythonpath = .
"""
BUILD = """
load("//testing:defs.bzl", "trainer_test")

trainer_test(
    name = "all_test",
    srcs = ["all_test.py"],
    tier = "unit",
    hardware = ["cpu", "gpu"],
    devices = {"gpu": [1, 2, 4]},
    deps = [":x"] + select({}),
)

trainer_test(name = "gpu_test", srcs = ["gpu_test.py"], tier = "smoke", hardware = ["gpu"], devices = 4)

trainer_test(name = "speed_test", srcs = ["speed_test.py"], tier = "benchmark", hardware = ["cpu", "gpu"])

trainer_test(
    name = "skip_test",
    srcs = ["skip_test.py"],
    tier = "smoke",
    allowed_skips = ["no * here"],
    env = {"WORD": "b"},
)
"""
FILES = {
    "all_test": """
import pytest
def test_plain(): pass
@pytest.mark.parametrize("n", [pytest.param(n, marks=pytest.mark.world_size(n)) for n in (2, 4, 8)])
def test_ranks(n): pass
""",
    # Cannot be imported on a machine without the package.
    "gpu_test": """
import os
if not os.environ["CUDA_VISIBLE_DEVICES"]: import no_such_package
def test_gpu():
    assert os.environ["TRAINYARD_HARDWARE"] == "gpu"
    assert int(os.environ["TRAINYARD_DEVICES"]) == len(os.environ["CUDA_VISIBLE_DEVICES"].split(","))
""",
    "speed_test": "import os\nif 'PEERS' not in os.environ: import no_such_peer\ndef test_speed(): pass",
    "skip_test": """
import os, pytest
def test_a(): assert os.environ["WORD"] == "b"
@pytest.mark.skip(reason="no network here")
def test_b(): pass
""",
}


class Repo:
    """A small repo, and pytest in its root."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.root = pytester.path
        (self.root / "pytest.ini").write_text(INI)
        (self.root / "conftest.py").write_text('pytest_plugins = ["testing.runner.plugin"]\n')
        (self.root / "testing").symlink_to(ROOT / "testing")
        (self.root / "pkg").mkdir()
        (self.root / "pkg" / "BUILD.bazel").write_text(BUILD)
        for name, source in FILES.items():
            (self.root / "pkg" / f"{name}.py").write_text(source)

    def plant_gpus(self, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        tool = self.root / "tools" / "nvidia-smi"
        tool.parent.mkdir()
        tool.write_text("#!/bin/sh\n" + "".join(f"echo {i}, NVIDIA H200, GPU-{i}, 580.95\n" for i in range(count)))
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def run(self, *args: str) -> pytest.RunResult:
        return self.pytester.runpytest_subprocess("pkg", "-v", "-rA", *args)


@pytest.fixture
def repo(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Repo:
    for name in ("TRAINYARD_HARDWARE", "TRAINYARD_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    return Repo(pytester)


def _passed(result: pytest.RunResult) -> set[str]:
    """Names of the tests that passed."""
    return {line.rpartition("::")[2] for line in result.outlines if line.startswith("PASSED")}


def test_a_laptop_runs_what_is_declared_for_cpu(repo: Repo) -> None:
    result = repo.run()
    assert result.ret == 0, result.stdout.str()
    assert _passed(result) == {"test_plain", "test_ranks[2]", "test_ranks[4]", "test_ranks[8]", "test_a"}
    result.assert_outcomes(passed=5, skipped=1, deselected=2)
    result.stdout.fnmatch_lines(
        [
            "hardware: cpu",
            "1 files deselected, benchmark: -m benchmark",
            "1 files deselected, not for cpu: --hardware=gpu",
        ]
    )


@pytest.mark.parametrize(
    ("args", "gpus", "passed"),
    [
        (["--hardware=gpu"], 1, {"test_plain"}),
        (["--hardware=gpu"], 2, {"test_plain", "test_ranks[2]"}),
        (["-m", "gpu"], 8, {"test_plain", "test_ranks[2]", "test_ranks[4]", "test_gpu"}),
        (["-m", "gpu", "--devices=2"], 8, {"test_plain", "test_ranks[2]"}),
        (["-m", "gpu and smoke"], 4, {"test_gpu"}),
        (["-m", "multi_gpu"], 2, {"test_plain", "test_ranks[2]"}),
    ],
)
def test_a_gpu_host_runs_what_its_devices_allow(
    repo: Repo, monkeypatch: pytest.MonkeyPatch, args: list[str], gpus: int, passed: set[str]
) -> None:
    repo.plant_gpus(monkeypatch, gpus)
    result = repo.run(*args)
    assert result.ret == 0, result.stdout.str()
    assert _passed(result) == passed


def test_missing_hardware_is_an_error(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    repo.plant_gpus(monkeypatch, 2)
    result = repo.run("--hardware=gpu", "--devices=4")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--hardware=gpu needs 4 NVIDIA GPUs, this machine shows 2*"])


def test_xdist_is_refused(repo: Repo) -> None:
    with (repo.root / "conftest.py").open("a") as conftest:
        conftest.write("def pytest_addoption(parser): parser.addoption('--processes', dest='numprocesses', type=int)\n")
    result = repo.run("--processes=2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*pytest-xdist shares devices*use Bazel"])


def test_tiers_select(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _passed(repo.run("-m", "smoke")) == {"test_a"}
    monkeypatch.setenv("PEERS", "1")
    assert _passed(repo.run("-m", "benchmark")) == {"test_speed"}
    assert "test_speed" not in _passed(repo.run("-m", "not gpu"))


def test_undeclared_file_is_an_error_and_is_not_imported(repo: Repo) -> None:
    (repo.root / "pkg" / "stray_test.py").write_text("open('imported', 'w')")
    result = repo.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*test files without a declaration*", "  pkg/stray_test.py"])
    assert not (repo.root / "imported").exists()


def test_file_declared_twice_is_an_error(repo: Repo) -> None:
    build = repo.root / "pkg" / "BUILD.bazel"
    build.write_text(BUILD + 'trainer_test(name = "b_test", srcs = ["all_test.py"], tier = "unit")\n')
    result = repo.run()
    assert result.ret != 0
    assert "declares all_test.py in all_test and b_test: one trainer_test per file" in str(
        result.outlines + result.errlines
    )


def test_bad_declaration_is_an_error(repo: Repo) -> None:
    build = repo.root / "pkg" / "BUILD.bazel"
    build.write_text(BUILD.replace('tier = "unit"', 'tier = "units"'))
    result = repo.run()
    assert result.ret != 0
    assert "tier = 'units': not one of lint, unit" in str(result.outlines + result.errlines)


def test_undeclared_skip_is_red(repo: Repo) -> None:
    (repo.root / "pkg" / "skip_test.py").write_text(FILES["skip_test"].replace("no network here", "no time"))
    result = repo.run()
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*test_b skipped for a reason that is not in allowed_skips: 'no time'"])


def test_file_whose_tests_all_skip_is_red_beside_others_that_run(repo: Repo) -> None:
    source = "import pytest\n@pytest.mark.skip(reason='no network here')\ndef test_b(): pass"
    (repo.root / "pkg" / "skip_test.py").write_text(source)
    result = repo.run()
    assert result.ret == 1
    result.stdout.fnmatch_lines(["//pkg:skip_test: no test ran, all 1 skipped*"])


def test_warning_is_an_error(repo: Repo) -> None:
    (repo.root / "pkg" / "all_test.py").write_text("import warnings\ndef test_a(): warnings.warn('old')")
    assert repo.run().ret == 1


@pytest.mark.parametrize(
    ("expression", "hardware"),
    [
        ("", "cpu"),
        ("smoke", "cpu"),
        ("not gpu", "cpu"),
        ("gpu", "gpu"),
        ("multi_gpu", "gpu"),
        ("unit and (gpu or trainium)", "gpu"),
        ("trainium and not lint", "trainium"),
        ("not cpu and not gpu", "trainium"),
        ("world_size(n=2)", "cpu"),
    ],
)
def test_hardware_follows_from_the_expression(expression: str, hardware: str) -> None:
    assert plugin.implied_hardware(expression) == hardware


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [("", False), ("not gpu", False), ("not benchmark", False), ("benchmark", True), ("benchmark and gpu", True)],
)
def test_benchmarks_run_only_when_named(expression: str, wanted: bool) -> None:
    assert plugin.wants_benchmarks(expression) is wanted
