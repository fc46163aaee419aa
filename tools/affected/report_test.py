import io
import json
import re

import pytest
from rich.console import Console

from tools.affected import filters, report
from tools.affected.explain import Explanation
from tools.affected.filters import Filters, Split, TagFilter
from tools.affected.selection import Affected, Selection, Side
from tools.affected.selection import Test as Target
from tools.affected.settings import Settings

SETTINGS = Settings(
    configurations={"cpu": (), "gpu": ("--config=gpu_x8",)},
    devices={"gpu": {"gpu": 1, "gpu_x2": 2, "gpu_x4": 4, "gpu_x8": 8}},
)


def gpu(label: str, count: int, *tags: str) -> Target:
    pool = "gpu" if count == 1 else "multi-gpu"
    return Target(label, ("gpu", f"resources:gpu:{count}", "subsystem", *tags), "gpu", pool)


PACKING = Affected(
    Target("//data:packing_test", ("cpu", "unit"), "cpu", "cpu"), "content", ("data/packing.py", "data/b.py")
)
STYLE = Affected(Target("//lint:style_test", ("cpu", "lint"), "cpu", "cpu"), "content", ("data/packing.py",))
MESH_X2 = Affected(gpu("//parallel:mesh_test_gpu_x2", 2), "action", ("environment: A",))
MESH_X4 = Affected(gpu("//parallel:mesh_test_gpu_x4", 4), "new")
RULES = Affected(Target("//rules:expand_test[0]", ("slow",), "cpu"), "new")
SELECTION = Selection(
    base=Side("merge base", "1234567890abcdef", True),
    head=Side("working tree", "fedcba0987654321", False),
    affected=(PACKING, STYLE, MESH_X2, MESH_X4, RULES),
    unaffected=(Target("//z:z_test", ("cpu", "unit"), "cpu"), Target("//a:a_test", ("cpu", "unit"), "cpu")),
    deleted=("//old:old_test",),
    elsewhere=("//parallel:mesh_test_trainium",),
)
NOTHING = Selection(SELECTION.base, SELECTION.head, (), SELECTION.unaffected)
NO_GPU = Filters(tags=TagFilter.parse("-gpu"))


def shown(selection: Selection, split: Split) -> str:
    out = io.StringIO()
    report.show(Console(file=out, width=80, highlight=False), selection, split)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def every(selection: Selection, wanted: Filters | None = None) -> Split:
    return filters.split(selection.affected, wanted or Filters())


def test_table_for_people() -> None:
    assert (
        shown(SELECTION, every(SELECTION, NO_GPU))
        == """\

 to run                   tier   hardware   why
 ────────────────────────────────────────────────────────────────────────
 //data:packing_test      unit   cpu        content: data/packing.py (+1)
 //lint:style_test        lint   cpu        content: data/packing.py
 //rules:expand_test[0]   -      -          new


                tier        cpu   gpu   -
 ────────────────────────────────────────
 to run         lint          1
                unit          1
                -                       1
 filtered out   subsystem           2

deleted: 1
  //old:old_test
elsewhere (compatible with no configuration that was asked about): 1
  //parallel:mesh_test_trainium
5 affected: 3 to run, 2 filtered out; 2 unaffected; 1 deleted; 1 elsewhere
base: merge base (1234567890ab); head: working tree (fedcba098765)"""
    )


def test_nothing_affected_is_said_plainly() -> None:
    sides = "base: merge base (1234567890ab); head: working tree (fedcba098765)"
    assert shown(NOTHING, every(NOTHING)) == f"nothing is affected; 2 unaffected\n{sides}"


def test_nothing_left_is_not_nothing_affected() -> None:
    text = shown(SELECTION, every(SELECTION, Filters(tiers=("smoke",))))
    assert "to run  " not in text
    assert " filtered out   lint          1\n" in text
    assert "nothing to run: 5 affected, but filtered out; 2 unaffected" in text


def test_everything_is_loud_in_each_output() -> None:
    blind = Selection(SELECTION.base, SELECTION.head, SELECTION.affected, (), everything="base [x] does not load")
    said = "EVERYTHING is taken, all 5 tests of head: base [x] does not load"
    assert report.loud(blind) == said
    assert report.loud(SELECTION) is None
    assert said in shown(blind, every(blind)).splitlines()[1]
    assert json.loads(report.as_json(blind, every(blind)))["everything"] == "base [x] does not load"


def test_labels_one_a_line() -> None:
    assert report.labels(every(SELECTION, NO_GPU)) == "//data:packing_test\n//lint:style_test\n//rules:expand_test[0]\n"
    assert report.labels(every(NOTHING)) == ""


def test_json_has_all_of_it() -> None:
    small = Selection(
        SELECTION.base, SELECTION.head, (PACKING, MESH_X2), SELECTION.unaffected, SELECTION.deleted, SELECTION.elsewhere
    )
    assert (
        report.as_json(small, every(small, NO_GPU))
        == """\
{
  "version": 1,
  "base": {
    "name": "merge base",
    "tree": "1234567890abcdef"
  },
  "head": {
    "name": "working tree",
    "tree": "fedcba0987654321"
  },
  "everything": null,
  "affected": [
    {
      "label": "//data:packing_test",
      "tier": "unit",
      "hardware": "cpu",
      "configuration": "cpu",
      "pool": "cpu",
      "tags": [
        "cpu",
        "unit"
      ],
      "why": "content",
      "changes": [
        "data/packing.py",
        "data/b.py"
      ]
    }
  ],
  "filtered_out": [
    {
      "label": "//parallel:mesh_test_gpu_x2",
      "tier": "subsystem",
      "hardware": "gpu",
      "configuration": "gpu",
      "pool": "multi-gpu",
      "tags": [
        "gpu",
        "resources:gpu:2",
        "subsystem"
      ],
      "why": "action",
      "changes": [
        "environment: A"
      ]
    }
  ],
  "unaffected": [
    "//a:a_test",
    "//z:z_test"
  ],
  "deleted": [
    "//old:old_test"
  ],
  "elsewhere": [
    "//parallel:mesh_test_trainium"
  ]
}
"""
    )


def test_json_is_the_same_wherever_base_came_from() -> None:
    other = Selection(
        Side("merge base", "1234567890abcdef", False),
        SELECTION.head,
        SELECTION.affected[::-1],
        SELECTION.unaffected[::-1],
    )
    this = Selection(SELECTION.base, SELECTION.head, SELECTION.affected, SELECTION.unaffected)
    assert report.as_json(this, every(this)) == report.as_json(other, every(other))
    assert report.matrix(every(this), SETTINGS) == report.matrix(every(other), SETTINGS)


def test_distance_is_told_only_where_it_was_asked_for() -> None:
    near = filters.split(SELECTION.affected, NO_GPU, {"//lint:style_test": 1, "//data:packing_test": 2})
    entries = json.loads(report.as_json(SELECTION, near))["affected"]
    assert [(entry["label"], entry["distance"]) for entry in entries] == [
        ("//rules:expand_test[0]", None),
        ("//lint:style_test", 1),
        ("//data:packing_test", 2),
    ]
    assert re.search(r"//lint:style_test +lint +cpu +1 +content", shown(SELECTION, near))
    assert re.search(r"//rules:expand_test\[0\] +- +- +\? +new", shown(SELECTION, near))


def test_matrix_has_an_entry_per_tier_and_pool() -> None:
    text = report.matrix(every(SELECTION), SETTINGS)
    assert text.count("\n") == 1 and text.endswith("\n")  # a value of $GITHUB_OUTPUT is one line
    assert json.loads(text) == {
        "include": [
            {
                "name": "lint-cpu",
                "tier": "lint",
                "hardware": "cpu",
                "pool": "cpu",
                "configuration": "cpu",
                "flags": [],
                "labels": ["//lint:style_test"],
            },
            {
                "name": "unit-cpu",
                "tier": "unit",
                "hardware": "cpu",
                "pool": "cpu",
                "configuration": "cpu",
                "flags": [],
                "labels": ["//data:packing_test"],
            },
            {
                "name": "subsystem-multi-gpu",
                "tier": "subsystem",
                "hardware": "gpu",
                "pool": "multi-gpu",
                "configuration": "gpu",
                "flags": ["--config=gpu_x4"],
                "labels": ["//parallel:mesh_test_gpu_x2", "//parallel:mesh_test_gpu_x4"],
            },
            {
                "name": "other-cpu",
                "tier": "",
                "hardware": "",
                "pool": "cpu",
                "configuration": "cpu",
                "flags": [],
                "labels": ["//rules:expand_test[0]"],
            },
        ]
    }


def test_matrix_holds_each_test_to_run_once() -> None:
    split = every(SELECTION, Filters(hardware=("gpu",)))
    entries = json.loads(report.matrix(split, SETTINGS))["include"]
    assert [label for entry in entries for label in entry["labels"]] == report.labels(split).split()


def test_one_gpu_asks_for_one() -> None:
    single = Affected(gpu("//a:t_gpu", 1), "new")
    (pool_of_one, pool_of_many) = json.loads(report.matrix(Split((single, MESH_X2), ()), SETTINGS))["include"]
    assert (pool_of_one["name"], pool_of_one["flags"]) == ("subsystem-gpu", ["--config=gpu"])
    assert (pool_of_many["name"], pool_of_many["flags"]) == ("subsystem-multi-gpu", ["--config=gpu_x2"])


def test_empty_matrix_is_the_text_that_the_workflow_compares_with() -> None:
    assert report.matrix(every(NOTHING), SETTINGS) == '{"include":[]}\n'


def test_names_are_names_of_jobs_and_differ() -> None:
    known = Settings(configurations={"a": (), "b": ("--config=b",)})
    tests = [
        Affected(Target("//:x", ("unit",), "a", "big pool (2)"), "new"),
        Affected(Target("//:y", ("unit",), "b", "big pool (2)"), "new"),
        Affected(Target("//:z", (), "b"), "new"),
    ]
    names = [entry["name"] for entry in json.loads(report.matrix(Split(tuple(tests), ()), known))["include"]]
    assert names == ["unit-big-pool-2-a", "unit-big-pool-2-b", "other-b"]


@pytest.mark.parametrize("output", ["table", "json"])
def test_changes_are_not_markup(output: str) -> None:
    odd = Affected(Target("//:a", ("unit",), "cpu"), "content", ("[red]x[/red].txt",))
    only = Selection(SELECTION.base, SELECTION.head, (odd,), ())
    text = shown(only, every(only)) if output == "table" else report.as_json(only, every(only))
    assert "[red]x[/red].txt" in text


WHY = Explanation(
    "//a:t", "affected", ("what Bazel would execute differs:", "environment: A"), ("//a:lib", "//a:t"), "-x\n+y"
)


def test_explanation_for_people() -> None:
    assert (
        report.explanation(WHY)
        == """\
//a:t: affected
  what Bazel would execute differs:
  environment: A
from the change to the test:
  //a:lib
  //a:t
how //a:lib changed:
  -x
  +y
"""
    )
    assert report.explanation(Explanation("//a:t", "deleted", ("base has it",))) == "//a:t: deleted\n  base has it\n"


def test_explanation_for_machines() -> None:
    assert json.loads(report.explanation_as_json(WHY)) == {
        "version": 1,
        "label": "//a:t",
        "verdict": "affected",
        "because": ["what Bazel would execute differs:", "environment: A"],
        "path": ["//a:lib", "//a:t"],
        "difference": "-x\n+y",
    }
