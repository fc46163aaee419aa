"""Kinds of change to files of a real repository: this one, whose tests are declared with `trainer_test`."""

from __future__ import annotations

from random import Random

from tools.affected.truth.edits import Workspace
from tools.affected.truth.kinds import (
    ANY,
    ERROR,
    NONE,
    Expected,
    Kind,
    append_to_one,
    depend_on,
    everything,
    just,
    theme,
    word,
)

KINDS: dict[str, Kind] = {}
"""By name."""

_in_repo = theme(KINDS, "in a repository")

_WHEELS = "third_party/"  # what installs wheels does so again when it differs: right, and slow
_LOCK = "third_party/python/cpu.txt"
MACRO = "testing/private/trainer_test.bzl"
TIERS = "testing/private/expand.bzl"


def _is_test(path: str) -> bool:
    return path.endswith("_test.py")


def _read(ws: Workspace, *suffixes: str) -> list[str]:
    return [path for path in ws.read_by_chosen if path.endswith(suffixes) and not _is_test(path)]


def _declared(ws: Workspace) -> list[str]:
    """The chosen tests whose declaration can be edited."""
    return sorted(set(ws.chosen).intersection(ws.tests()))


@_in_repo("library source")
def _(ws: Workspace, rng: Random) -> Expected:
    return append_to_one(ws, rng, _read(ws, ".py"))


@_in_repo("source of a test")
def _(ws: Workspace, rng: Random) -> Expected:
    return append_to_one(ws, rng, [path for path in ws.read_by_chosen if _is_test(path)])


@_in_repo("data file")
def _(ws: Workspace, rng: Random) -> Expected:
    return append_to_one(ws, rng, [p for p in ws.read_by_chosen if not p.endswith((".py", ".bzl", ".bazel"))])


@_in_repo("source that no chosen test reads")
def _(ws: Workspace, rng: Random) -> Expected:
    files = [path for path in ws.files(".py") if not path.startswith(_WHEELS)]
    append_to_one(ws, rng, sorted(set(files) - set(ws.read_by_chosen)))
    return NONE


@_in_repo("prose")
def _(ws: Workspace, rng: Random) -> Expected:
    append_to_one(ws, rng, sorted(set(ws.files(".md")) - set(ws.read_by_chosen)))
    return NONE


@_in_repo("comment in a .bzl file")
def _(ws: Workspace, rng: Random) -> Expected:
    files = [path for path in ws.files(".bzl") if "repository" not in ws.read(path) and not path.startswith(_WHEELS)]
    append_to_one(ws, rng, sorted(set(files) - set(ws.read_by_chosen)))
    return NONE


@_in_repo("macro edit")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.replace(MACRO, '"env": variant.env,', f'"env": dict(variant.env, EDITED = "{word(rng)}"),')
    return everything()


@_in_repo("macro edit for one tier")
def _(ws: Workspace, _rng: Random) -> Expected:
    ws.replace(TIERS, '"unit": "small"', '"unit": "medium"')
    return ANY


@_in_repo("comment in a BUILD file")
def _(ws: Workspace, rng: Random) -> Expected:
    append_to_one(ws, rng, ws.files("BUILD.bazel"))
    return NONE


@_in_repo("dep added")
def _(ws: Workspace, rng: Random) -> Expected:
    test = rng.choice(_declared(ws))
    deps = ws.get(test, "deps") or "[]"
    ws.set(test, "deps", deps + ' + ["//tools/affected:digests"]')
    return ANY


@_in_repo("data added")
def _(ws: Workspace, rng: Random) -> Expected:
    tests = [test for test in _declared(ws) if ws.get(test, "data") is None]
    test = rng.choice(tests)
    package = test.removeprefix("//").partition(":")[0]
    ws.create(f"{package}/{word(rng)}.txt", "data\n")
    ws.set(test, "data", 'glob(["w*.txt"])')
    return just(test)


@_in_repo("environment of a test")
def _(ws: Workspace, rng: Random) -> Expected:
    test = rng.choice([test for test in _declared(ws) if ws.get(test, "env") is None])
    ws.set(test, "env", f'{{"EDITED": "{word(rng)}"}}')
    return just(test)


@_in_repo("descriptive tag", truth="spawn")
def _(ws: Workspace, rng: Random) -> Expected:
    test = rng.choice([test for test in _declared(ws) if ws.get(test, "tags") is None])
    ws.set(test, "tags", f'["{word(rng)}"]')
    return Expected("0", touched=(test,))


@_in_repo("new test")
def _(ws: Workspace, rng: Random) -> Expected:
    package = rng.choice(_declared(ws)).removeprefix("//").partition(":")[0]
    name = f"{word(rng)}_test"
    ws.create(f"{package}/{name}.py", "def test_nothing():\n    pass\n")
    ws.add(package, f'trainer_test(\n    name = "{name}",\n    srcs = ["{name}.py"],\n    tier = "unit",\n)\n')
    return just(f"//{package}:{name}")


@_in_repo("test deleted")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.delete(rng.choice(_declared(ws)))
    return NONE


@_in_repo("wheel locked otherwise")
def _(ws: Workspace, rng: Random) -> Expected:
    """One more hash is allowed: the same wheel is installed, and its stamp says what is locked."""
    lines = ws.read(_LOCK).splitlines(keepends=True)
    at = rng.choice([number for number, line in enumerate(lines) if line[0].isalnum() and line.endswith("\\\n")])
    lines.insert(at + 1, f"    --hash=sha256:{rng.getrandbits(256):064x} \\\n")
    ws.write(_LOCK, "".join(lines))
    return ANY


@_in_repo("lock commented")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append(_LOCK, f"# {word(rng)}\n")
    return NONE


@_in_repo("test_env in .bazelrc")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.append(".bazelrc", f"test --test_env=EDITED={word(rng)}\n")
    return everything()


@_in_repo("executable bit", truth="declared")
def _(ws: Workspace, rng: Random) -> Expected:
    path = rng.choice(_read(ws, ".py"))
    file = ws.root / path
    file.chmod(file.stat().st_mode ^ 0o111)
    return depend_on(ws.label(path))


@_in_repo("pyproject.toml")
def _(ws: Workspace, rng: Random) -> Expected:
    return append_to_one(ws, rng, ["pyproject.toml"])


@_in_repo("deleted source that a target lists")
def _(ws: Workspace, rng: Random) -> Expected:
    ws.remove(rng.choice(_read(ws, ".py")))
    return ERROR
