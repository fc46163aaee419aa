"""The two build steps behind the type check: which third-party modules the repo imports, and what mypy learns of them.

Two steps, so that the second, slow one runs again only when the list that the first one writes differs.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from tools.lint import run_mypy, tree
from tools.lint.repo import Repo


def main() -> None:
    """`modules OUTPUT` writes the list; `seed CONFIGURATION MODULES OUTPUT` writes the file for `run_mypy.check`."""
    parser = argparse.ArgumentParser(description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    modules = steps.add_parser("modules")
    modules.add_argument("output", type=Path)
    seed = steps.add_parser("seed")
    for name in ("configuration", "modules", "output"):
        seed.add_argument(name, type=Path)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if arguments.step == "modules":
            names = run_mypy.third_party_modules(Repo.read(tree.sources_under_test(scratch)))
            arguments.output.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        else:
            configuration = scratch / "pyproject.toml"  # mypy tells the format by the name
            shutil.copyfile(arguments.configuration, configuration)
            names = arguments.modules.read_text(encoding="utf-8").split()
            run_mypy.seed(configuration, names, arguments.output.resolve())


if __name__ == "__main__":
    main()
