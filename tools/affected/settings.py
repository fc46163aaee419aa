"""What a workspace says of itself in `[tool.affected]` of its pyproject.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import pydantic

from tools.affected.selection import SelectError, Test

FILE = "pyproject.toml"

_Word = Annotated[str, pydantic.StringConstraints(pattern=r"^[A-Za-z0-9_.-]+$")]
_Flag = Annotated[str, pydantic.StringConstraints(pattern=r"^--[a-z]")]
_MENDS = {
    "extra_forbidden": "no such setting; there are {known}",
    "string_pattern_mismatch": "write a name of letters, digits, `_`, `.` and `-`; a flag in one piece, `--name=value`",
}


class Settings(pydantic.BaseModel):
    """How the tests of a workspace are configured.

    Attributes:
      main_branch: where the default base is looked for; None takes the usual names.
      query_flags: Bazel options of every question that a selection asks.
      configurations: name to Bazel flags; a test belongs to the first in which it is compatible.
      devices: what `resources:NAME:N` tags count: NAME to {name of a `--config`: number that its host has}.
      everywhere: names of the `--config` under which every test finds its hardware, such as that of remote workers.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    main_branch: Annotated[str, pydantic.StringConstraints(min_length=1)] | None = None
    query_flags: tuple[_Flag, ...] = ()
    configurations: Annotated[dict[_Word, tuple[_Flag, ...]], pydantic.Field(min_length=1)] = {"default": ()}
    devices: dict[_Word, dict[_Word, Annotated[int, pydantic.Field(strict=True, ge=1)]]] = {}
    everywhere: tuple[_Word, ...] = ("remote",)

    def host_flags(self) -> frozenset[str]:
        """The flags that say which devices a host has, `--config=gpu_x4`."""
        return frozenset(f"--config={name}" for hosts in self.devices.values() for name in hosts)

    def hosts(self, test: Test) -> tuple[str, ...]:
        """The flags of the hosts that have the devices of a test, smallest host first; () where it counts none."""
        for tag in test.tags:
            kind, _, counted = tag.partition(":")
            resource, _, count = counted.partition(":")
            if kind == "resources" and resource in self.devices:
                has = sorted((number, name) for name, number in self.devices[resource].items())
                return tuple(f"--config={name}" for number, name in has if number >= float(count))
        return ()

    def flags(self, configuration: str, host: str | None = None) -> tuple[str, ...]:
        """The flags of a configuration on a host.

        Args:
          configuration: its name.
          host: one of `host_flags`, instead of the one that stands for all hosts in the configuration; None keeps that.
        """
        own = self.configurations[configuration]
        return own if host is None else (*(flag for flag in own if flag not in self.host_flags()), host)

    def flags_for_all(self, tests: Iterable[Test]) -> tuple[str, ...]:
        """The flags of the smallest host that runs all of `tests`, which belong to one configuration."""
        tests = list(tests)
        hosts = min((self.hosts(test) for test in tests), key=len)  # (the more devices, the fewer hosts have them)
        return self.flags(tests[0].configuration, hosts[0] if hosts else None)


def read(workspace: Path) -> Settings:
    """The settings of a workspace; the defaults where it has none.

    Raises:
      SelectError: they are not what is asked for.
    """
    file = workspace / FILE
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError) as error:
        raise SelectError(f"cannot read {file}: {error}") from error
    try:
        table = tomllib.loads(text).get("tool", {}).get("affected", {})
    except tomllib.TOMLDecodeError as error:
        raise SelectError(f"{file} is not TOML: {error}") from error
    try:
        return Settings.model_validate(table)
    except pydantic.ValidationError as error:
        faults = "; ".join(_fault(dict(fault)) for fault in error.errors())
        raise SelectError(f"{file}: [tool.affected] {faults} (docs/affected.md describes the settings)") from error


def _fault(fault: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in fault["loc"] if part != "[key]") or "(table)"
    mend = _MENDS.get(fault["type"], fault["msg"]).format(known=", ".join(Settings.model_fields))
    return f"{place} = {fault['input']!r}: {mend}"
