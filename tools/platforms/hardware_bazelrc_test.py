import ast
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


def _constant(name: str) -> dict[str, list[int]]:
    """A constant of levels.bzl, which is Python too."""
    for node in ast.parse((FOLDER / "levels.bzl").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise AssertionError(name)


LEVELS = [
    (hardware, resource, level, hardware if level == levels[0] else f"{hardware}_x{level}")
    for (hardware, levels), resource in zip(_constant("LEVELS").items(), _constant("RESOURCES").values(), strict=True)
    for level in levels
]


@pytest.mark.parametrize(("hardware", "resource", "level", "config"), LEVELS)
def test_each_platform_has_a_config_with_its_count(hardware: str, resource: str, level: int, config: str) -> None:
    lines = (FOLDER / "hardware.bazelrc").read_text().splitlines()
    assert f"build:{config} --platforms=//tools/platforms:{config}" in lines
    assert f"build:{config} --local_resources={resource}={level}" in lines


def test_no_config_without_a_platform() -> None:
    lines = (FOLDER / "hardware.bazelrc").read_text().splitlines()
    configs = {line.split()[0].removeprefix("build:") for line in lines if line.startswith("build:")}
    assert configs == {config for *_, config in LEVELS} | {"fleet"}
