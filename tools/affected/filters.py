"""Which of the affected tests are asked for: by tier, by hardware, by tags as `bazel test --test_tag_filters` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from tools.affected.selection import HARDWARE, TIERS, Affected, SelectError, Test

# Bazel's filter also knows words that it derives from attributes; a selection holds tags alone.
_DERIVED = frozenset(
    "small medium large enormous short moderate long eternal flaky noflaky local nolocal".split()  # noqa: SIM905
)


@dataclasses.dataclass(frozen=True)
class TagFilter:
    """Words of `--test_tag_filters`.

    Attributes:
      required: any one of them suffices; with none, every test does.
      excluded: none of them may be there.
    """

    required: frozenset[str] = frozenset()
    excluded: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str) -> TagFilter:
        """Reads the flag's value as Bazel does: no blanks are trimmed, `+word` is `word`, `manual` is passed over.

        Raises:
          SelectError: it has a word that Bazel derives from an attribute such as size.
        """
        words = [word for word in text.split(",") if word != "manual"] if text else []
        excluded = frozenset(word[1:] for word in words if word.startswith("-"))
        required = frozenset(word.removeprefix("+") for word in words if not word.startswith("-"))
        derived = sorted((required | excluded) & _DERIVED)
        if derived:
            raise SelectError(
                f"--test-tag-filters={text}: {', '.join(derived)}: Bazel derives this word from an attribute, a "
                "selection knows tags alone; leave it out here and pass it to Bazel: --test -- --test_tag_filters=..."
            )
        return cls(required, excluded)

    def takes(self, tags: Iterable[str]) -> bool:
        """Whether a test with these tags is asked for."""
        there = frozenset(tags)
        return not there & self.excluded and (not self.required or bool(there & self.required))


@dataclasses.dataclass(frozen=True)
class Filters:
    """What is asked for; all conditions hold together.

    Attributes:
      tiers: any of them; () takes all.
      hardware: any of them; () takes all.
      tags: words of the tags.
      max_distance: farthest from the change in the graph; a test of unknown distance is taken.
    """

    tiers: tuple[str, ...] = ()
    hardware: tuple[str, ...] = ()
    tags: TagFilter = TagFilter()
    max_distance: int | None = None

    def takes(self, test: Test, distance: int | None = None) -> bool:
        """Whether a test is asked for."""
        return (
            (not self.tiers or test.tier in self.tiers)
            and (not self.hardware or test.hardware in self.hardware)
            and self.tags.takes(test.tags)
            and (self.max_distance is None or distance is None or distance <= self.max_distance)
        )


@dataclasses.dataclass(frozen=True)
class Split:
    """Affected tests, those to run apart from the others, each by label, or nearest first where distances are known.

    Attributes:
      kept: asked for.
      filtered_out: affected as well, not asked for.
      distance: label to steps in the graph between test and change; None where nobody asked.
    """

    kept: tuple[Affected, ...]
    filtered_out: tuple[Affected, ...]
    distance: Mapping[str, int] | None = None


def split(affected: Iterable[Affected], filters: Filters, distance: Mapping[str, int] | None = None) -> Split:
    """Divides affected tests into those asked for and the others."""
    far = distance or {}
    # (unknown distances first: nothing says that they are far)
    order = sorted(affected, key=lambda each: (far.get(each.test.label, -1), each.test.label))
    kept = {each.test.label for each in order if filters.takes(each.test, far.get(each.test.label))}
    return Split(
        tuple(each for each in order if each.test.label in kept),
        tuple(each for each in order if each.test.label not in kept),
        distance,
    )


def words(option: str, given: Iterable[str]) -> tuple[str, ...]:
    """The words of a list option, `--tier=unit,lint --tier=smoke`.

    Raises:
      SelectError: there is no such word.
    """
    known = {"--tier": TIERS, "--hardware": HARDWARE}[option]
    found = [word for text in given for word in text.split(",")]
    for word in found:
        if word not in known:
            raise SelectError(f"{option}={word}: not one of {', '.join(known)}")
    return tuple(dict.fromkeys(found))
