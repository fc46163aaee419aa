import re

import pytest

from tools.affected import filters
from tools.affected.filters import Filters, TagFilter
from tools.affected.selection import Affected, SelectError
from tools.affected.selection import Test as Target

TESTS = {
    "none": (),
    "unit": ("unit",),
    "unit_slow": ("unit-slow",),
    "gpu": ("gpu", "unit"),
    "both": ("gpu", "multi-gpu", "subsystem"),
    "plus": ("+odd",),
    "minus": ("-odd",),
    "blank": ("", " sp"),
}
ALL = set(TESTS)


# What `bazel test //... --test_tag_filters=...` of Bazel 7.7.1 ran, of a workspace with one sh_test per entry of TESTS.
@pytest.mark.parametrize(
    ("text", "ran"),
    [
        ("", ALL),
        ("unit", {"unit", "gpu"}),
        ("unit,gpu", {"unit", "gpu", "both"}),
        ("-gpu", ALL - {"gpu", "both"}),
        ("unit,-gpu", {"unit"}),
        ("-gpu,-unit", ALL - {"gpu", "both", "unit"}),
        ("unit,-unit", set()),
        ("uni", set()),
        ("multi", set()),
        ("UNIT", set()),
        ("absent", set()),
        ("-absent", ALL),
        (" unit", set()),
        ("unit ,x", set()),
        ("unit, gpu", {"unit", "gpu"}),
        (" sp", {"blank"}),
        (",", {"blank"}),
        ("unit,", {"unit", "gpu", "blank"}),
        ("+unit", {"unit", "gpu"}),
        ("+odd", set()),
        ("++odd", {"plus"}),
        ("-odd", ALL),
        ("--odd", ALL - {"minus"}),
        ("-+odd", ALL - {"plus"}),
        ("+-odd", {"minus"}),
        ("manual", ALL),
        ("-manual", ALL),
        ("manual,unit", {"unit", "gpu"}),
        ("-manual,unit", {"unit", "gpu"}),
        ("+manual", set()),
    ],
)
def test_tag_filters_are_bazels(text: str, ran: set[str]) -> None:
    taken = TagFilter.parse(text)
    assert {name for name, tags in TESTS.items() if taken.takes(tags)} == ran


@pytest.mark.parametrize("text", ["small", "-flaky", "unit,+long", "nolocal"])
def test_a_word_that_is_no_tag_is_refused(text: str) -> None:
    with pytest.raises(SelectError, match=re.escape(f"--test-tag-filters={text}: ")):
        TagFilter.parse(text)


def affected(label: str, *tags: str) -> Affected:
    return Affected(Target(label, tags, "cpu"), "content")


CHANGED = (
    affected("//c:unit", "cpu", "unit"),
    affected("//a:unit_gpu", "gpu", "unit", "slow"),
    affected("//b:subsystem", "cpu", "subsystem"),
    affected("//d:untagged"),
)


def labels(found: tuple[Affected, ...]) -> list[str]:
    return [each.test.label for each in found]


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        (Filters(), ["//a:unit_gpu", "//b:subsystem", "//c:unit", "//d:untagged"]),
        (Filters(tiers=("unit",)), ["//a:unit_gpu", "//c:unit"]),
        (Filters(tiers=("unit", "subsystem")), ["//a:unit_gpu", "//b:subsystem", "//c:unit"]),
        (Filters(hardware=("gpu",)), ["//a:unit_gpu"]),
        (Filters(tiers=("unit",), hardware=("cpu",)), ["//c:unit"]),
        (Filters(tiers=("unit",), tags=TagFilter.parse("-slow")), ["//c:unit"]),
        (Filters(tiers=("smoke",)), []),
    ],
)
def test_conditions_hold_together_and_no_test_is_lost(wanted: Filters, kept: list[str]) -> None:
    found = filters.split(CHANGED, wanted)
    assert labels(found.kept) == kept
    assert labels(found.filtered_out) == sorted({each.test.label for each in CHANGED} - set(kept))


def test_near_tests_come_first_and_far_ones_are_cut() -> None:
    distance = {"//a:unit_gpu": 3, "//b:subsystem": 1, "//c:unit": 2}
    found = filters.split(CHANGED, Filters(max_distance=2), distance)
    # nothing says that the untagged one is far
    assert labels(found.kept) == ["//d:untagged", "//b:subsystem", "//c:unit"]
    assert labels(found.filtered_out) == ["//a:unit_gpu"]


def test_distance_zero_is_a_limit_too() -> None:
    found = filters.split(CHANGED, Filters(max_distance=0), {each.test.label: 1 for each in CHANGED})
    assert found.kept == ()


@pytest.mark.parametrize(
    ("given", "words"),
    [([], ()), (["unit,lint", "smoke"], ("unit", "lint", "smoke")), (["unit", "unit"], ("unit",))],
)
def test_words_of_a_list_option(given: list[str], words: tuple[str, ...]) -> None:
    assert filters.words("--tier", given) == words


@pytest.mark.parametrize(
    ("option", "given", "message"),
    [
        ("--tier", "units", "--tier=units: not one of lint, unit, subsystem, smoke, benchmark"),
        ("--tier", "unit,", "--tier=: not one of"),
        ("--hardware", "unit", "--hardware=unit: not one of cpu, gpu, trainium"),
    ],
)
def test_a_word_that_names_nothing_is_refused(option: str, given: str, message: str) -> None:
    with pytest.raises(SelectError) as caught:
        filters.words(option, [given])
    assert message in str(caught.value)
