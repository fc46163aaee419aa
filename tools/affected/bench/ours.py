"""Our selector as two of those measured: the function, and the command as a user types it."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tools.affected.bench.participants import Participant
from tools.affected.selection import SelectError, Selection
from tools.affected.selector import Options, select


class Ours(Participant):
    """`select` in this process, from main to the working tree."""

    compares = True

    def __init__(self, name: str, folder: Path, origin: Path, bazel: Sequence[str]) -> None:
        """See `Participant`."""
        super().__init__(name, folder, origin, bazel)
        self._options = Options(
            bazel=tuple(bazel), configurations={"cpu": ()}, cache=folder / "cache", main_branch="main"
        )

    def run(self) -> frozenset[str]:
        """Selects.

        Raises:
          SelectError: the answer is not exact.
        """
        return labels(select(self.clone, "main", None, self._options))


class OursCommand(Participant):
    """`./bazelw run //tools/affected`, from main to the working tree.

    The Bazel server of the checkout that it is run from is warm in all cases.
    """

    compares = True
    measured_cold = False

    def __init__(self, name: str, folder: Path, origin: Path, bazel: Sequence[str], checkout: Path) -> None:
        """See `Participant`.

        Args:
          name: see there.
          folder: see there.
          origin: see there.
          bazel: see there.
          checkout: where the command is run.
        """
        super().__init__(name, folder, origin, bazel)
        self._checkout = checkout
        # A workspace whose `bazelw` is this repo's; it is no part of what is compared.
        wrapper = self.clone / "bazelw"
        wrapper.write_text(f'#!/bin/sh\nexec {shlex.quote(str(checkout / "bazelw"))} "$@"\n')
        wrapper.chmod(0o755)
        (self.clone / ".git/info/exclude").write_text("/bazelw\n")

    def run(self) -> frozenset[str]:
        """Runs the command.

        Raises:
          RuntimeError: it failed.
        """
        asked = [f"--workspace={self.clone}", "--base=main", f"--cache={self.folder / 'cache'}", "--output=labels"]
        command = ["./bazelw", "run", "//tools/affected", "--", *asked, "--strict"]
        result = subprocess.run(command, cwd=self._checkout, capture_output=True, text=True, check=False)
        if result.returncode:
            raise RuntimeError(f"{' '.join(command)} failed in {self._checkout}:\n{result.stderr}")
        return frozenset(result.stdout.split())


def labels(selection: Selection) -> frozenset[str]:
    """The affected tests of an exact answer.

    Raises:
      SelectError: it is not exact.
    """
    if selection.everything is not None:
        raise SelectError(f"every test was taken: {selection.everything}")
    return frozenset(each.test.label for each in selection.affected)
