"""The selector under test, in the harness's terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.affected import selector
from tools.affected.private_bazel import PrivateBazel
from tools.affected.selection import SelectError
from tools.affected.truth.harness import Answer


class Subject:
    """Asks `tools.affected.selector`.

    Args:
      bazel: the Bazel that it asks, as the beginning of a command line.
      cache: its folder.
      configurations: name to Bazel flags.
      flags: Bazel options of every question.
      exhaustive: it compares all actions.
    """

    def __init__(
        self,
        bazel: Sequence[str],
        cache: Path,
        configurations: Mapping[str, tuple[str, ...]],
        flags: Sequence[str] = (),
        *,
        exhaustive: bool = False,
    ) -> None:
        self._bazel = tuple(bazel)
        self._cache = cache
        self._options = selector.Options(
            bazel=self._bazel,
            configurations=configurations,
            cache=cache,
            flags=tuple(flags),
            build=True,
            exhaustive=exhaustive,
        )

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, *_: object) -> None:
        for home in self._cache.glob("workspaces/*"):
            PrivateBazel.shut_down_all(self._bazel, home / "tree")

    def __call__(self, root: Path, base: str) -> Answer:
        """What it says about the working tree of `root`."""
        try:
            selection = selector.select(root, base, None, self._options)
        except SelectError as error:
            return Answer(error=str(error))
        return Answer(
            affected={affected.test.label: affected.test.configuration for affected in selection.affected},
            unaffected={test.label: test.configuration for test in selection.unaffected},
            deleted=frozenset(selection.deleted),
            everything=selection.everything is not None,
        )
