"""What is measured: each has a clone, a Bazel server and caches of its own, and answers about state after state."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.affected.bench import big_workspace, peer_hashing, servers

# A source of one test: what `new_base` changes. No change that is measured touches it.
_BASE_FILE = "layer0/p0/t9.py"


class Participant:
    """Answers one question about its clone, whose branch main is the base.

    Attributes:
      name: for the tables.
      folder: all that it writes is below.
    """

    compares = False
    """Whether it tells affected tests; others ask about the head alone, so that no base matters to them."""
    measured_cold = True
    """Whether its server can be made cold alone."""

    def __init__(self, name: str, folder: Path, origin: Path, bazel: Sequence[str]) -> None:
        """See the class.

        Args:
          name: see the class.
          folder: see the class; it is made.
          origin: the workspace to clone.
          bazel: arguments that start Bazel.
        """
        self.name = name
        self.folder = folder
        self.clone = folder / "clone"
        self.bazel = (*bazel, f"--output_base={folder / 'output'}")
        folder.mkdir(parents=True)
        big_workspace.git(folder, "clone", "--quiet", str(origin), str(self.clone))

    def new_base(self, turn: int) -> None:
        """Gives main another commit, of which no cache knows."""
        self._reset()
        text = (self.clone / _BASE_FILE).read_text()
        big_workspace.write_files(self.clone, {_BASE_FILE: f"{text}# base {turn}\n"})
        big_workspace.commit(self.clone, f"base {turn}")

    def head(self, edits: Mapping[str, str]) -> None:
        """Makes the head: main with these files in place of its own."""
        self._reset()
        big_workspace.write_files(self.clone, edits)

    def run(self) -> frozenset[str] | None:
        """Answers about the head; if it compares, with the labels of the affected tests."""
        raise NotImplementedError

    def _reset(self) -> None:
        big_workspace.git(self.clone, "checkout", "--quiet", "--force", "main")
        big_workspace.git(self.clone, "clean", "--quiet", "--force", "-d")

    def _ask(self, *arguments: str) -> bytes:
        result = subprocess.run([*self.bazel, *arguments], cwd=self.clone, capture_output=True, check=False)
        if result.returncode:
            raise RuntimeError(f"bazel {' '.join(arguments)} failed in {self.clone}:\n{result.stderr.decode()}")
        return result.stdout


class OneQuestion(Participant):
    """One query of the head."""

    def __init__(self, name: str, folder: Path, origin: Path, bazel: Sequence[str], arguments: Sequence[str]) -> None:
        """See `Participant`.

        Args:
          name: see there.
          folder: see there.
          origin: see there.
          bazel: see there.
          arguments: what to ask of Bazel.
        """
        super().__init__(name, folder, origin, bazel)
        self._arguments = tuple(arguments)

    def run(self) -> None:
        """Asks."""
        self._ask(*self._arguments)


class TwoGraphs(Participant):
    """The two-graph hashing of existing tools; hashes of a base are kept as JSON, as they do."""

    compares = True

    def new_base(self, turn: int) -> None:
        """See `Participant`."""
        super().new_base(turn)
        self._kept().unlink(missing_ok=True)

    def head(self, edits: Mapping[str, str]) -> None:
        """See `Participant`; the head is a commit, as those tools ask for revisions."""
        super().head(edits)
        big_workspace.git(self.clone, "checkout", "--quiet", "--detach")
        big_workspace.commit(self.clone, "head")

    def run(self) -> frozenset[str]:
        """Hashes base, if that is not kept, and head."""
        kept = self._kept()
        if not kept.exists():
            head = big_workspace.git(self.clone, "rev-parse", "HEAD").strip()
            big_workspace.git(self.clone, "checkout", "--quiet", "main")
            hashes, _ = peer_hashing.hashes(self._ask(*peer_hashing.QUERY), self.clone)
            kept.write_text(json.dumps(hashes))
            big_workspace.git(self.clone, "checkout", "--quiet", head)
        base = json.loads(kept.read_text())
        hashes, tests = peer_hashing.hashes(self._ask(*peer_hashing.QUERY), self.clone)
        return peer_hashing.affected(base, hashes, tests)

    def _kept(self) -> Path:
        return self.folder / "base.json"


def own_peak_mb(participant: Participant) -> float:
    """Runs a participant and returns the most memory that this process was resident in until now, in MB.

    To be called in a fresh process.
    """
    participant.run()
    return servers.peak_mb_of(os.getpid())
