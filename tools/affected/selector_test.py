import fcntl
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from tools.affected import selector
from tools.affected.fake_answers import FakeBazel
from tools.affected.selection import SelectError
from tools.affected.selector import Options

TARGETS = {
    "//lib:lib": {"kind": "py_library", "srcs": ["lib.py"]},
    "//lib:more": {"kind": "py_library", "srcs": ["more.py"]},
    "//app:t1": {"kind": "py_test", "deps": ["//lib:lib"], "srcs": ["t1.py"], "tags": ["unit", "cpu"]},
    "//app:t2": {"kind": "py_test", "deps": ["//lib:lib", "//lib:more"], "srcs": ["t2.py"]},
    "//app:t3": {"kind": "py_test", "srcs": ["t3.py"]},
    "//app:gpu": {"kind": "py_test", "deps": ["//lib:more"], "srcs": ["gpu.py"], "needs": "--gpu"},
    "//app:nowhere": {"kind": "py_test", "srcs": ["t3.py"], "needs": "--trainium"},
    "//app:manual": {"kind": "py_test", "srcs": ["t3.py"], "tags": ["manual"]},
}
FILES = ["lib.py", "more.py", "t1.py", "t2.py", "t3.py", "gpu.py", "README.md"]


def git(root: Path, *arguments: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main"]
    return subprocess.run(
        ["git", *who, *arguments], cwd=root, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture(autouse=True)
def bazels(monkeypatch, tmp_path):
    """The servers that were made, in their order; git as where nobody configured it."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    made = []

    def make(*arguments):
        made.append(FakeBazel(*arguments))
        return made[-1]

    monkeypatch.setattr(selector, "PrivateBazel", make)
    return made


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "repo"
    folder.mkdir()
    git(folder, "init")
    for name in FILES:
        (folder / name).write_text(f"{name}\n")
    (folder / ".bazelversion").write_text("7.7.1\n")
    declare(folder)
    git(folder, "add", "--all")
    git(folder, "commit", "-m", "base")
    return folder


def declare(root: Path, **changes) -> None:
    """Writes the targets, some changed (name in //app to attributes; None takes it out)."""
    targets = {label: dict(declared) for label, declared in TARGETS.items()}
    for name, attributes in changes.items():
        label = f"//lib:{name}" if f"//lib:{name}" in TARGETS else f"//app:{name}"
        if attributes is None:
            del targets[label]
        else:
            targets.setdefault(label, {"kind": "py_test"}).update(attributes)
    (root / "targets.json").write_text(json.dumps(targets, indent=1))


def options(root: Path, **changes) -> Options:
    configurations = {"cpu": (), "gpu": ("--gpu",)}
    given = {"bazel": ("bazel",), "configurations": configurations, "cache": root.parent / "cache", **changes}
    return Options(**given)


def select(root: Path, base="HEAD", head=None, **changes):
    return selector.select(root, base, head, options(root, **changes))


def why(selection) -> dict[str, str]:
    return {affected.test.label.removeprefix("//app:"): affected.why for affected in selection.affected}


def names(labels) -> set[str]:
    return {label.removeprefix("//app:") for label in labels}


@pytest.fixture(params=["normal", "at sight", "exhaustive"])
def exhaustive(request, monkeypatch):
    """Whether to compare all actions; the answer must be the same however it is found."""
    if request.param == "at sight":
        monkeypatch.setattr(selector, "_FEW", 0)
    return request.param == "exhaustive"


def test_nothing_changed(root, bazels):
    selection = select(root)
    assert why(selection) == {}
    assert names(test.label for test in selection.unaffected) == {"t1", "t2", "t3", "gpu"}
    assert (names(selection.elsewhere), selection.deleted, selection.everything) == ({"nowhere"}, (), None)
    assert selection.base.tree == selection.head.tree == git(root, "rev-parse", "HEAD^{tree}")
    assert (selection.base.name, selection.head.name) == ("HEAD", "working tree")
    assert not selection.base.cached
    again = select(root)
    assert again.base.cached
    assert again.head.cached
    assert bazels[-1].asked == []


def test_library(root, exhaustive):
    (root / "lib.py").write_text("changed")
    selection = select(root, exhaustive=exhaustive)
    assert names(why(selection)) == {"t1", "t2"}
    assert all(affected.changes == ("lib.py",) for affected in selection.affected)
    assert names(test.label for test in selection.unaffected) == {"t3", "gpu"}


def test_file_that_nothing_reads(root, exhaustive):
    (root / "README.md").write_text("changed")
    (root / "new.md").write_text("new")
    assert why(select(root, exhaustive=exhaustive)) == {}


def test_test_in_the_second_configuration(root):
    (root / "more.py").write_text("changed")
    selection = select(root)
    assert {a.test.label: a.test.configuration for a in selection.affected} == {"//app:t2": "cpu", "//app:gpu": "gpu"}


def test_answer_does_not_depend_on_the_cache(root):
    (root / "lib.py").write_text("changed")
    first, second = select(root), select(root)
    assert (first.base.cached, second.base.cached) == (False, True)
    assert (first.affected, first.unaffected, first.elsewhere) == (second.affected, second.unaffected, second.elsewhere)


def test_exec_bit(root, exhaustive):
    (root / "lib.py").chmod(0o755)
    assert names(why(select(root, exhaustive=exhaustive))) == {"t1", "t2"}


def test_file_behind_a_link(root, exhaustive):
    (root / "lib.py").unlink()
    (root / "lib.py").symlink_to("real.py")
    (root / "real.py").write_text("1")
    git(root, "add", "--all")
    git(root, "commit", "-m", "link")
    (root / "real.py").write_text("2")
    assert names(why(select(root, exhaustive=exhaustive))) == {"t1", "t2"}


def test_file_that_became_a_link_to_what_it_was(root, exhaustive):
    (root / "lib.py").rename(root / "real.py")
    (root / "lib.py").symlink_to("real.py")
    assert why(select(root, exhaustive=exhaustive)) == {}


def test_revisions(root):
    (root / "t3.py").write_text("2")
    git(root, "commit", "--all", "-m", "second")
    (root / "t1.py").write_text("3")
    assert names(why(select(root, "HEAD~1", "HEAD"))) == {"t3"}
    assert names(why(select(root, "HEAD", None))) == {"t1"}
    assert names(why(select(root, "HEAD~1", None))) == {"t1", "t3"}
    assert names(why(select(root, "HEAD", "HEAD~1"))) == {"t3"}


def test_default_base_is_the_merge_base(root):
    git(root, "checkout", "-b", "topic")
    (root / "t3.py").write_text("2")
    git(root, "commit", "--all", "-m", "second")
    selection = select(root, None, None)
    assert names(why(selection)) == {"t3"}
    assert selection.base.name == "merge base"


def test_unknown_revision(root):
    with pytest.raises(SelectError, match="nonsense: not a revision"):
        select(root, "nonsense")


# Declarations.


def test_new_test(root, exhaustive):
    declare(root, fresh={"srcs": ["t3.py"]})
    assert why(select(root, exhaustive=exhaustive)) == {"fresh": "new"}


def test_deleted_test(root, exhaustive):
    declare(root, t1=None)
    selection = select(root, exhaustive=exhaustive)
    assert (why(selection), names(selection.deleted)) == ({}, {"t1"})


def test_renamed_test(root):
    declare(root, t1=None, renamed=TARGETS["//app:t1"])
    selection = select(root)
    assert (why(selection), names(selection.deleted)) == ({"renamed": "new"}, {"t1"})


def test_test_that_became_manual_is_neither_affected_nor_deleted(root):
    declare(root, t1={"tags": ["manual"]})
    selection = select(root)
    assert (why(selection), selection.deleted) == ({}, ())
    assert names(test.label for test in selection.unaffected) == {"t2", "t3", "gpu"}


def test_test_that_is_no_longer_manual_is_new(root):
    declare(root, manual={"tags": []})
    assert why(select(root)) == {"manual": "new"}


def test_test_that_moved_to_another_configuration_is_new(root):
    declare(root, t3={"needs": "--gpu"})
    selection = select(root)
    assert [(a.test.label, a.why, a.test.configuration) for a in selection.affected] == [("//app:t3", "new", "gpu")]
    assert selection.deleted == ()


def test_test_that_no_configuration_can_run(root):
    declare(root, t3={"needs": "--trainium"})
    selection = select(root)
    assert (why(selection), selection.deleted, names(selection.elsewhere)) == ({}, (), {"t3", "nowhere"})


def test_test_that_one_can_run_now(root):
    declare(root, nowhere={"needs": "--gpu"})
    assert why(select(root)) == {"nowhere": "new"}


def test_descriptive_tag_does_not_count(root, exhaustive):
    declare(root, t1={"tags": ["unit", "cpu", "slow"]})
    selection = select(root, exhaustive=exhaustive)
    assert why(selection) == {}
    (test,) = (test for test in selection.unaffected if test.label == "//app:t1")
    assert test.tags == ("unit", "cpu", "slow")


def test_size_counts(root, exhaustive):
    declare(root, t1={"size": "large"})
    assert why(select(root, exhaustive=exhaustive)) == {"t1": "action"}


def test_size_counts_though_a_tag_changes_too(root):
    declare(root, t1={"size": "large", "tags": ["unit", "cpu", "slow"]})
    assert why(select(root)) == {"t1": "action"}


def test_attribute_that_only_the_key_shows_counts(root, exhaustive):
    declare(root, t1={"mode": "two"})
    assert why(select(root, exhaustive=exhaustive)) == {"t1": "action"}


def test_argument_counts(root, exhaustive):
    declare(root, t1={"args": ["-v"]})
    selection = select(root, exhaustive=exhaustive)
    assert why(selection) == {"t1": "action"}
    assert selection.affected[0].changes == ("+ argument: -v",)


def test_dependency_that_is_gone_counts(root, exhaustive):
    declare(root, t2={"deps": ["//lib:lib"]})
    selection = select(root, exhaustive=exhaustive)
    assert why(selection) == {"t2": "action"}
    assert "- more.py" in selection.affected[0].changes


def test_declaration_that_changes_no_action(root, exhaustive):
    declare(root, lib={"tags": ["of a library"]})
    assert why(select(root, exhaustive=exhaustive)) == {}


def test_order_of_dependencies_that_changes_the_runfiles(root):
    declare(root, t2={"deps": ["//lib:more", "//lib:lib"]})
    selection = select(root)
    assert why(selection) == {"t2": "action"}
    assert selection.affected[0].changes == ("places of its runfiles",)


def test_external_always_runs(root, exhaustive):
    declare(root, t3={"tags": ["external"]})
    git(root, "commit", "--all", "-m", "external")
    assert why(select(root, exhaustive=exhaustive)) == {"t3": "always"}
    (root / "lib.py").write_text("changed")
    assert why(select(root, exhaustive=exhaustive))["t3"] == "always"
    (root / "t3.py").write_text("changed")
    assert why(select(root, exhaustive=exhaustive))["t3"] in ("content", "action")


def test_file_that_decides_about_all_but_changes_no_action(root):
    (root / "MODULE.bazel").write_text("module()")
    assert why(select(root)) == {}


def test_test_that_differs_at_sight_is_not_asked_about_again(root, bazels, monkeypatch):
    monkeypatch.setattr(selector, "_FEW", 0)
    declare(root, lib={"srcs": ["lib.py", "more.py"]})
    selection = select(root)
    assert why(selection) == {"t1": "action"}  # (t2 reads both files anyway)
    assert selection.affected[0].changes == ("+ more.py",)
    sight, whole = (question for question in bazels[-2].asked[-2:])
    assert "TemplateExpand" in sight
    assert all(name in sight for name in ("//app:t1", "//app:t2"))
    assert "TemplateExpand" not in whole
    assert "//app:t1" not in whole
    assert "//app:t2" in whole


# What Bazel need not be asked.


def asked_of(bazels) -> list[str]:
    """What the last selection asked Bazel."""
    return [question for bazel in bazels[-2:] for question in bazel.asked]


def edit_unread_files(root):
    (root / "lib.py").write_text("changed")
    (root / "README.md").write_text("changed")
    (root / "t3.py").chmod(0o755)


def test_files_that_only_actions_read_ask_nothing(root, bazels):
    select(root)
    edit_unread_files(root)
    selection = select(root)
    assert asked_of(bazels) == []
    assert why(selection) == dict.fromkeys(["t1", "t2", "t3"], "content")
    assert (names(selection.elsewhere), selection.deleted) == ({"nowhere"}, ())
    thorough = select(root, exhaustive=True)
    assert asked_of(bazels) != []
    assert (selection.unaffected, selection.elsewhere) == (thorough.unaffected, thorough.elsewhere)
    assert [(a.test, a.changes) for a in selection.affected] == [(a.test, a.changes) for a in thorough.affected]


def test_explanations_that_ask_nothing_before(root, bazels):
    select(root)
    edit_unread_files(root)
    assert explain(root, "t1").path == ("//:lib.py", "//lib:lib", "//app:t1")
    assert explain(root, "gpu").verdict == "unaffected"
    assert explain(root, "nowhere").verdict == "elsewhere"


@pytest.mark.parametrize(
    "edit",
    [
        lambda root: declare(root, t1={"args": ["-v"]}),
        lambda root: (root / "new.md").write_text("new"),
        lambda root: (root / "README.md").unlink(),
        lambda root: (root / "MODULE.bazel").write_text("module()\n"),
        lambda root: (root / ".bazelversion").write_text("7.7.1"),
        lambda root: ((root / "t3.py").unlink(), (root / "t3.py").symlink_to("t1.py")),
    ],
    ids=["read", "added", "deleted", "module", "version", "link"],
)
def test_other_changes_are_asked_about(root, bazels, edit):
    (root / "MODULE.bazel").write_text("")
    git(root, "add", "--all")
    git(root, "commit", "-m", "module")
    select(root)
    (root / "lib.py").write_text("changed")
    edit(root)
    assert {"t1", "t2"} <= names(why(select(root)))
    assert asked_of(bazels) != []


def test_bazel_that_does_not_tell_what_it_read_is_asked(root, bazels, monkeypatch):
    monkeypatch.setattr(FakeBazel, "tells_what_it_read", False)
    select(root)
    edit_unread_files(root)
    assert names(why(select(root))) == {"t1", "t2", "t3"}
    assert asked_of(bazels) != []


# Sides that say nothing.


def test_base_that_does_not_load(root):
    (root / "broken").touch()
    git(root, "add", "--all")
    git(root, "commit", "-m", "broken")
    (root / "broken").unlink()
    for _ in range(2):  # (and it is not kept)
        selection = select(root)
        assert why(selection) == dict.fromkeys(["t1", "t2", "t3", "gpu"], "everything")
        assert {a.test.configuration for a in selection.affected if a.test.label == "//app:gpu"} == {"gpu"}
        assert selection.everything == "Bazel cannot analyse it (cpu): ERROR: app/BUILD.bazel:1:1: broken"
        assert names(selection.elsewhere) == {"nowhere"}
        assert not selection.base.cached
    with pytest.raises(SelectError, match=r"base \(HEAD\): Bazel cannot analyse it.*broken"):
        select(root, strict=True)


def test_head_that_does_not_load(root):
    (root / "broken").touch()
    with pytest.raises(SelectError, match="(?s)Bazel cannot analyse head.*ERROR: app/BUILD.bazel:1:1: broken"):
        select(root)


def test_neither_loads(root):
    (root / "broken").touch()
    git(root, "add", "--all")
    git(root, "commit", "-m", "broken")
    (root / "README.md").write_text("changed")
    with pytest.raises(SelectError, match="Bazel cannot analyse head"):
        select(root)


def test_another_version_of_bazel(root):
    (root / ".bazelversion").write_text("8.0.0\n")
    selection = select(root)
    assert set(why(selection).values()) == {"everything"}
    assert len(selection.affected) == 4
    assert selection.everything == "it is built with Bazel 7.7.1, head with 8.0.0"
    with pytest.raises(SelectError, match=r"base \(HEAD\): it is built with Bazel 7.7.1"):
        select(root, strict=True)


def test_version_of_bazel_spelled_otherwise(root):
    (root / ".bazelversion").write_text("7.7.1")
    selection = select(root)
    assert (why(selection), selection.everything) == ({}, None)


# The user's side, and others.


def test_users_files_are_untouched(root):
    (root / "lib.py").write_text("changed")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    select(root)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_clone_elsewhere_shares_snapshots(root, tmp_path):
    shutil.copytree(root, tmp_path / "far/away")
    for folder in (root, tmp_path / "far/away"):
        (folder / "lib.py").write_text("changed")
    first = select(root)
    second = select(tmp_path / "far/away", cache=tmp_path / "cache")
    assert second.base.cached
    assert (first.affected, first.unaffected) == (second.affected, second.unaffected)


def test_waits_for_another_selection(root):
    said = threading.Event()
    found = []

    def say(text):
        if "waiting" in text:
            said.set()

    with selector.selecting(root, "HEAD", None, options(root)):
        thread = threading.Thread(target=lambda: found.append(selector.select(root, "HEAD", None, options(root), say)))
        thread.start()
        assert said.wait(60)
        thread.join(2)  # (as long as a selection takes that does not wait)
        assert found == []
    thread.join(60)
    assert len(found) == 1


def test_lock_is_free_afterwards(root):
    select(root)
    (lock,) = (root.parent / "cache").rglob("lock")
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# Explanations.


def explain(root, name, **changes):
    with selector.selecting(root, "HEAD", None, options(root, **changes)) as made:
        return made.explain(f"//app:{name}")


def test_explain_content(root):
    (root / "lib.py").write_text("changed")
    found = explain(root, "t1")
    assert found.verdict == "affected"
    assert found.because[-1] == "lib.py"
    assert found.path == ("//:lib.py", "//lib:lib", "//app:t1")


def test_explain_declaration(root):
    declare(root, t1={"args": ["-v"]})
    found = explain(root, "t1")
    assert (found.verdict, found.path) == ("affected", ("//app:t1",))
    assert '"-v"' in found.difference


def test_explain_absence(root):
    (root / "lib.py").write_text("changed")
    declare(root, t3=None)
    assert explain(root, "gpu").verdict == "unaffected"
    assert explain(root, "t3").verdict == "deleted"
    assert explain(root, "nowhere").verdict == "elsewhere"
    assert explain(root, "manual").verdict == "manual"
    assert explain(root, "nonsense").verdict == "unknown"


def test_explain_everything(root):
    (root / ".bazelversion").write_text("8\n")
    found = explain(root, "t3")
    assert found.verdict == "affected"
    assert "7.7.1" in found.because[0]


def test_distances(root):
    (root / "lib.py").write_text("changed")
    declare(root, t3={"args": ["-v"]}, fresh={"srcs": ["t3.py"]})
    with selector.selecting(root, "HEAD", None, options(root)) as made:
        assert made.distances() == {"//app:t1": 2, "//app:t2": 2, "//app:t3": 0, "//app:fresh": 0}


def test_attribute_that_only_the_key_shows_counts_though_a_tag_changes_too(root):
    declare(root, t1={"mode": "two", "tags": ["unit", "cpu", "slow"]})
    assert why(select(root)) == {"t1": "action"}


def test_damaged_snapshot_is_taken_again(root):
    select(root)
    for file in (root.parent / "cache/snapshots").iterdir():
        content = bytearray(file.read_bytes())
        place = content.index(b"actions.json") + len("actions.json")
        content[place : place + 8] = b"\xff" * 8
        file.write_bytes(content)
    (root / "lib.py").write_text("changed")
    selection = select(root)
    assert names(why(selection)) == {"t1", "t2"}
    assert not selection.base.cached
