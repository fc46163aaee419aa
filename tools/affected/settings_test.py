import ast
import os
from pathlib import Path

import pytest

from tools.affected import settings
from tools.affected.selection import SelectError
from tools.affected.selection import Test as Target

DEVICES = """
[tool.affected.configurations]
cpu = []
gpu = ["--config=gpu_x8", "--copt=-O2"]

[tool.affected.devices.gpu]
gpu_x8 = 8
gpu = 1
gpu_x2 = 2
"""


def read(folder: Path, text: str) -> settings.Settings:
    (folder / "pyproject.toml").write_text(text)
    return settings.read(folder)


def gpu(count: int | str, *, resource: str = "gpu") -> Target:
    return Target(f"//:t{count}", ("gpu", f"resources:{resource}:{count}"), "gpu")


@pytest.mark.parametrize("text", [None, "", "[tool.ruff]\nline-length = 1\n", "[tool.affected]\n"])
def test_a_workspace_that_says_nothing_has_one_configuration(tmp_path: Path, text: str | None) -> None:
    known = settings.read(tmp_path) if text is None else read(tmp_path, text)
    assert known.configurations == {"default": ()}
    assert known.main_branch is None
    assert known.everywhere == ("remote",)


def test_configurations_keep_their_order(tmp_path: Path) -> None:
    known = read(tmp_path, '[tool.affected.configurations]\nz = []\na = ["--config=a"]\nm = []\n')
    assert list(known.configurations.items()) == [("z", ()), ("a", ("--config=a",)), ("m", ())]


@pytest.mark.parametrize(
    ("count", "hosts"),
    [
        (1, ("--config=gpu", "--config=gpu_x2", "--config=gpu_x8")),
        (2, ("--config=gpu_x2", "--config=gpu_x8")),
        (4, ("--config=gpu_x8",)),
        ("0.5", ("--config=gpu", "--config=gpu_x2", "--config=gpu_x8")),
        (16, ()),
    ],
)
def test_hosts_that_have_enough_devices_smallest_first(
    tmp_path: Path, count: int | str, hosts: tuple[str, ...]
) -> None:
    assert read(tmp_path, DEVICES).hosts(gpu(count)) == hosts


def test_only_known_resources_ask_for_a_host(tmp_path: Path) -> None:
    known = read(tmp_path, DEVICES)
    assert known.hosts(gpu(2, resource="neuroncore")) == ()
    assert known.hosts(Target("//:t", ("gpu", "cpu:4"), "cpu")) == ()


def test_a_host_takes_the_place_of_the_one_in_the_configuration(tmp_path: Path) -> None:
    known = read(tmp_path, DEVICES)
    assert known.flags("gpu") == ("--config=gpu_x8", "--copt=-O2")
    assert known.flags("gpu", "--config=gpu_x2") == ("--copt=-O2", "--config=gpu_x2")
    assert known.flags("cpu") == ()


def test_flags_for_all_are_those_of_the_most_demanding(tmp_path: Path) -> None:
    known = read(tmp_path, DEVICES)
    assert known.flags_for_all([gpu(1)]) == ("--copt=-O2", "--config=gpu")
    assert known.flags_for_all([gpu(1), gpu(2), gpu(1)]) == ("--copt=-O2", "--config=gpu_x2")
    # 16 devices: no host is known to have them; what it was analysed with is what is left
    assert known.flags_for_all([gpu(1), gpu(16)]) == ("--config=gpu_x8", "--copt=-O2")
    assert known.flags_for_all([Target("//:t", ("cpu",), "cpu")]) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[tool.affected]\nmain_brunch = 'main'\n",
            "main_brunch = 'main': no such setting; there are main_branch, query_flags, conf",
        ),
        ("[tool.affected]\nmain_branch = ''\n", "main_branch = '': String should have at least 1 character"),
        ("[tool.affected]\nconfigurations = {}\n", "configurations = {}: Dictionary should have at least 1 item"),
        ("[tool.affected.configurations]\ngpu = '--config=gpu'\n", "configurations.gpu = '--config=gpu': "),
        (
            "[tool.affected.configurations]\ngpu = ['-c', 'opt']\n",
            "configurations.gpu.0 = '-c': write a name of letters",
        ),
        ("[tool.affected.configurations]\n'a b' = []\n", "configurations.a b = 'a b': write a name of letters"),
        ("[tool.affected.devices.gpu]\ngpu = 0\n", "devices.gpu.gpu = 0: Input should be greater than or equal to 1"),
        ("[tool.affected.devices.gpu]\ngpu = '1'\n", "devices.gpu.gpu = '1': Input should be a valid integer"),
        ("[tool]\naffected = 3\n", "(table) = 3: Input should be a valid dictionary"),
        ("[tool.affected\n", "is not TOML: Expected ']'"),
    ],
)
def test_an_error_names_value_place_and_mend(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SelectError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value)
    assert str(tmp_path / "pyproject.toml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_this_repo_names_the_hosts_that_it_has_platforms_for(tmp_path: Path) -> None:
    levels = Path("tools/platforms/levels.bzl").read_text()  # Starlark, which is Python too
    (constant,) = [
        ast.literal_eval(node.value)
        for node in ast.parse(levels).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LEVELS"
    ]
    expected = {f"gpu_x{level}" if level > 1 else "gpu": level for level in constant["gpu"]}
    known = read(tmp_path, _own_pyproject())
    assert known.devices == {"gpu": expected}
    # one analysis serves all GPU tests only with the largest platform
    assert known.configurations == {"cpu": (), "gpu": (f"--config=gpu_x{max(constant['gpu'])}",)}


def _own_pyproject() -> str:
    runfiles = os.environ.get("TEST_SRCDIR")
    if runfiles is None:
        return Path("pyproject.toml").read_text()
    (file,) = Path(runfiles).glob("*source_tree/tree/pyproject.toml.src")
    return file.read_text()
