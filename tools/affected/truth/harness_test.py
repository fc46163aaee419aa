import json
import os
from pathlib import Path
from random import Random

import pytest

from tools.affected.truth import harness, report, truth, workspace
from tools.affected.truth.changes import KINDS
from tools.affected.truth.edits import InapplicableError, Workspace
from tools.affected.truth.harness import Result

# They leave all files as they were, and that is the point.
UNSEEN = {
    "nothing",
    "file touched",
    "library source, staged and undone",
    "revert of a commit",
    "other mode bits",
    "base does not load",
}


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("edited") / "workspace"
    workspace.write(root, "7.7.1")
    return Workspace(root)


def _state(ws: Workspace) -> dict[str, tuple[int, bytes]]:
    """Mode and content of every file."""
    found = {}
    for folder, folders, names in os.walk(ws.root):
        if ".git" not in Path(folder).relative_to(ws.root).parts:
            links = [name for name in folders if Path(folder, name).is_symlink()]
            for path in [Path(folder, name) for name in names + links]:
                content = os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes()
                found[str(path.relative_to(ws.root))] = (path.lstat().st_mode & 0o170100, content)
    return found


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_edits(edited: Workspace, name: str) -> None:
    before = _state(edited)
    expected = KINDS[name].apply(edited, Random(f"1/{name}"))
    assert (_state(edited) != before) != (name in UNSEEN)
    edited.reset()
    assert _state(edited) == before
    assert not expected.touched or KINDS[name].truth == "spawn"
    if expected.answer in ("R", "t"):
        assert all(label.startswith(("//", "@")) for label in expected.labels)


def test_the_same_seed_edits_the_same(edited: Workspace) -> None:
    for name in ("library source", "file of a glob renamed", "env", "order of statements in a BUILD file"):
        states = []
        for seed in (1, 1, 2):
            KINDS[name].apply(edited, Random(f"{seed}/{name}"))
            states.append(_state(edited))
            edited.reset()
        assert states[0] == states[1] != states[2]


def test_edits_of_attributes(edited: Workspace) -> None:
    edited.reset()
    label = "//app:tuned_test"
    assert edited.get(label, "shard_count") == "2"
    assert edited.get(label, "flaky") is None
    before = edited.read("app/BUILD.bazel")
    edited.set(label, "args", '["one"]')
    assert edited.get(label, "args") == '["one"]'
    edited.set(label, "args", '[\n        "first",\n        "second",\n    ]')
    edited.set(label, "flaky", "True")
    assert edited.get(label, "flaky") == "True"
    edited.set(label, "flaky", None)
    assert sorted(edited.read("app/BUILD.bazel").split("\n")) == sorted(before.split("\n"))
    edited.delete(label)
    assert label not in edited.tests()
    with pytest.raises(InapplicableError, match="//app:tuned_test is not there"):
        edited.set(label, "flaky", "True")


def test_labels_and_tests(edited: Workspace) -> None:
    edited.reset()
    assert edited.label("app/nested/nested.txt") == "//app/nested:nested.txt"
    assert edited.label("app/assets/deep/four.txt") == "//app:assets/deep/four.txt"
    assert edited.label("root.txt") == "//:root.txt"
    assert {"//:root_test", "//lib:base_test", "//forms:coloured_test"} <= set(edited.tests())
    assert edited.tests("fast_probe_test") == ["//rules:fast_probe_test"]
    assert "//suites:manual_test" not in edited.tests()


def test_cases_take_all_kinds_in_turn() -> None:
    cases = harness.cases(KINDS.values(), len(KINDS) + 2, 3)
    assert [case.name for case in cases[: len(KINDS)]] == [f"{name}#0" for name in KINDS]
    assert cases[len(KINDS)].name == f"{next(iter(KINDS))}#1"
    assert [case.name for case in cases[-3:]] == ["pair#0", "pair#1", "pair#2"]
    assert harness.find_case(KINDS, cases[0].name) == cases[0]
    assert harness.find_case(KINDS, "pair#2") == cases[-1]
    with pytest.raises(ValueError, match="no case 'unheard of#1'"):
        harness.find_case(KINDS, "unheard of#1")


def _event(label: str, place: str, **result: object) -> str:
    outputs = [{"name": "test.log", "uri": f"file:///{place}"}]
    return json.dumps({"id": {"testResult": {"label": label}}, "testResult": {"testActionOutput": outputs, **result}})


def test_events(tmp_path: Path) -> None:
    lines = [
        json.dumps({"id": {"progress": {}}, "progress": {}}),
        _event("//:cached", "cached", cachedLocally=True, executionInfo={}),
        _event("//:ran", "ran", executionInfo={"strategy": "local"}),
        _event("//:from_disk", "from_disk", executionInfo={"cachedRemotely": True}),
        _event("//:one_shard_ran", "shard_1", cachedLocally=True, executionInfo={}),
        _event("//:one_shard_ran", "shard_2", executionInfo={}),
        _event("//:failed", "failed", status="FAILED", executionInfo={}),
    ]
    (tmp_path / "events.json").write_text("\n".join(lines))
    run = harness.read_events(tmp_path / "events.json")
    assert run.cached == {"//:cached"}
    assert run.executed == {"//:ran", "//:from_disk", "//:one_shard_ran", "//:failed"}
    assert run.spawned == {"//:ran", "//:one_shard_ran", "//:failed"}
    assert run.failed == {"//:failed"}
    assert run.places["//:one_shard_ran"] == {"file:///shard_1", "file:///shard_2"}


def test_results_of_earlier_cases_do_not_count() -> None:
    def cached(**places: str) -> harness.Run:
        return harness.Run(cached=frozenset(places), places={test: frozenset([p]) for test, p in places.items()})

    run = cached(same="k8-fastbuild/same", moved="k8-opt/moved", new="k8-fastbuild/new")
    before = cached(same="k8-fastbuild/same", moved="k8-fastbuild/moved", gone="k8-fastbuild/gone")
    assert run.since(before).executed == run.since(before).spawned == {"moved", "new"}
    assert run.since(before).cached == {"same"}


def test_an_answer_about_some_tests() -> None:
    answer = harness.Answer({"a": "cpu", "b": "cpu"}, {"c": "cpu"}, frozenset({"d", "e"}), everything=True)
    some = harness.Answer({"a": "cpu"}, {"c": "cpu"}, frozenset({"e"}), everything=True)
    assert answer.among({"a", "c", "e", "f"}) == some


def _result(truth: set[str] | None, answer: set[str] | None, *other: str) -> Result:
    def named(tests: set[str] | None) -> frozenset[str] | None:
        return None if tests is None else frozenset(tests)

    return Result("kind#0", (KINDS["library source"],), "", named(truth), named(answer), other)


def test_scores() -> None:
    results = [_result({"a", "b"}, {"a", "c"}), _result({"a"}, {"a"}), _result(None, None), _result(set(), set())]
    assert results[0].faults == ("missing: b", "extra: c")
    score = report.scores(results)["all"]
    assert (score.tried, score.wrong, score.truth, score.named, score.found, score.telling) == (4, 1, 3, 3, 2, 3)
    assert score.recall == score.precision == pytest.approx(2 / 3)
    assert [result.kinds for result in results] == [(KINDS["library source"],)] * 4
    assert list(report.themes(results)) == ["contents of files", "all"]
    assert report.table(report.themes(results)).row_count == 2
    details = report.as_json(results, seed=1)
    assert details["cases"][0]["faults"] == ("missing: b", "extra: c")
    assert details["cases"][2]["truth"] == "error"


@pytest.mark.parametrize(
    ("results", "fault"),
    [
        ([_result({"a"}, {"a"})], None),
        ([_result({"a"}, set())], "kind#0: missing: a"),
        ([_result({"a"}, {"a", "b"})], "kind#0: extra: b"),
        ([_result({"a"}, {"a"}, "deleted: ['b'], not []")], "kind#0: deleted"),
        ([_result({"a"}, {"a"})] + [_result(set(), set())] * 3, "only 1 of 4 changes made Bazel run a test"),
        ([], "no change was tried"),
    ],
)
def test_verdict(results: list[Result], fault: str | None) -> None:
    faults = truth.verdict(results)
    assert [line.startswith(fault) for line in faults] == [True] if fault else faults == []
