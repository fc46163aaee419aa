"""Code for a process that outlives `bazel run`: a copy of it, for Bazel's own will be gone."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def ship(folder: Path, files: Iterable[Path] = ()) -> None:
    """Makes `folder` hold all modules of `tools` that are loaded, to be found through PYTHONPATH, and nothing else.

    Args:
      folder: is replaced.
      files: of the repo, that the modules read.
    """
    loaded = [module.__file__ for name, module in sorted(sys.modules.items()) if name.partition(".")[0] == "tools"]
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    for source in (*(Path(each) for each in loaded if each), *files):
        target = fresh / source.relative_to(_ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
