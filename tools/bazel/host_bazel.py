"""The Bazel that tests and tools drive, and what a workspace needs so that this Bazel loads it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_WORLDS = "tools/bazel/worlds.bazelrc"
_MODULES = "third_party/modules"
# In its first minutes a server mostly compiles its own code: once, quickly, and in few threads is then less work.
_SHORT_LIVED = ("--host_jvm_args=-XX:TieredStopAtLevel=1", "--host_jvm_args=-XX:+UseSerialGC")


def command() -> tuple[str, ...]:
    """The command that starts Bazel; startup options may follow it, then Bazel's command.

    Under Bazel it is the one of this build (`@host_bazel//:bazel`), elsewhere `bazelw`.

    Raises:
      ValueError: a Bazel target whose runfiles hold none, or more than one.
    """
    runfiles = _runfiles()
    if runfiles is None:
        return (str(_repo() / "bazelw"),)
    # The repository's directory name is Bazel's to choose: `+host_bazel` or `_main~_repo_rules~host_bazel`.
    found = sorted(runfiles.glob("*host_bazel/bazel"))
    if len(found) != 1:
        raise ValueError(f"{len(found)} Bazels in {runfiles}; add `@host_bazel//:bazel` to the target's data")
    return (str(found[0]),)


def short_lived_command() -> tuple[str, ...]:
    """The same for servers of small workspaces that end within minutes: they need a third less processor time."""
    return (*command(), *_SHORT_LIVED)


def make_workspace(folder: Path) -> None:
    """Writes `.bazelrc` and `third_party/modules` to `folder`: a MODULE.bazel beside them loads in either world."""
    repo = _repo()
    (folder / _WORLDS).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(repo / _WORLDS, folder / _WORLDS)
    (folder / ".bazelrc").write_text(f"import %workspace%/{_WORLDS}\n")
    shutil.copytree(repo / _MODULES, folder / _MODULES)


def _repo() -> Path:
    return Path(os.path.abspath(__file__)).parents[2]


def _runfiles() -> Path | None:
    """The folder with one folder per repository that this Bazel target declares; None outside Bazel."""
    for parent in _repo().parents:
        if parent.name.endswith(".runfiles"):
            return parent
    return None
