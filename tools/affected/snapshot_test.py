import json
import os
import time
import zipfile

import pytest

from tools.affected import snapshot
from tools.affected.action_graph import ActionGraph
from tools.affected.fake_answers import Actions, FakeBazel
from tools.affected.private_bazel import BazelError

TARGETS = {
    "//lib:lib": {"kind": "py_library", "srcs": ["lib.py", "external/wheel/stamp"]},
    "//app:t1": {"kind": "py_test", "deps": ["//lib:lib"], "srcs": ["t1.py"], "tags": ["unit", "cpu"], "size": "small"},
    "//app:t2": {"kind": "py_test", "srcs": ["t2.py"], "needs": "--gpu"},
    "//app:t3": {"kind": "py_test", "srcs": ["t3.py"], "tags": ["manual"]},
}


@pytest.fixture
def bazel(tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/targets.json").write_text(json.dumps(TARGETS))
    (tmp_path / "tree.output/external/wheel").mkdir(parents=True)
    (tmp_path / "tree.output/external/wheel/stamp").write_text("1")
    return FakeBazel((), tmp_path / "tree", ())


@pytest.fixture
def file(tmp_path):
    return tmp_path / "snapshots/key.zip"


# The key.


def test_key_depends_on_each_part(monkeypatch):
    def key(tree="tree", version="7.7.1", flags=("--a", "--b")):
        return snapshot.key(tree, version, flags)

    assert key() == key()
    keys = [
        key(),
        key(tree="other"),
        key(version="7.7.2"),
        key(flags=("--a",)),
        key(flags=("--b", "--a")),
        key(flags=("--a --b",)),
    ]
    monkeypatch.setattr(snapshot.platform, "machine", lambda: "riscv64")
    keys.append(key())
    monkeypatch.undo()
    monkeypatch.setattr(snapshot.sys, "version", "4.0")
    keys.append(key())
    assert len(set(keys)) == 8


def test_key_depends_on_the_selector_itself(tmp_path, monkeypatch):
    for name in snapshot._MODULES:
        (tmp_path / name).write_text("1")
    monkeypatch.setattr(snapshot, "__file__", str(tmp_path / "snapshot.py"))
    keys = {snapshot.key("tree", "7", ())}
    for name in snapshot._MODULES:
        (tmp_path / name).write_text("2")
        keys.add(snapshot.key("tree", "7", ()))
    assert len(keys) == 1 + len(snapshot._MODULES)


# Taking one.


def test_taken_is_loaded(bazel, file):
    taken = snapshot.take(bazel, (), None, True, file)
    loaded = snapshot.load(file)
    assert loaded == taken
    assert loaded.tests.keys() == {"//app:t1", "//app:t2"}
    assert loaded.tests["//app:t1"].tags == ("unit", "cpu")
    assert loaded.compatible == {"//app:t1"}
    assert set(loaded.sources) == {"lib.py", "external/wheel/stamp", "t1.py"}
    assert loaded.external.keys() == {"external/wheel/stamp"}
    assert loaded.links
    assert loaded.actions() == snapshot.ask_actions(bazel, (), ["//app:t1", "//app:t2"])
    assert loaded.targets() == snapshot.read_targets(bazel, (), None, ())
    assert loaded.read == {"targets.json", *snapshot.SURROUNDINGS}


def test_same_answer_same_file(bazel, file, monkeypatch):
    """Whoever takes it, and whenever."""
    snapshot.take(bazel, (), None, False, file)
    first = file.read_bytes()
    monkeypatch.setattr(time, "localtime", lambda *_: time.gmtime(10**9))
    snapshot.take(bazel, (), None, False, file)
    assert file.read_bytes() == first


def test_configuration_with_a_flag(bazel, file):
    assert snapshot.take(bazel, ("--gpu",), None, False, file).compatible == {"//app:t1", "//app:t2"}


def test_only_some_tests(bazel, file):
    taken = snapshot.take(bazel, (), ["//app:t2"], False, file)
    assert taken.tests.keys() == {"//app:t2"}
    assert taken.compatible == frozenset()
    assert not taken.links


@pytest.mark.parametrize("name", [*snapshot.SURROUNDINGS, ".bazelrc"])
def test_surroundings(bazel, file, name):
    before = snapshot.take(bazel, (), None, False, file)
    (bazel.folder / name).write_text("build --x")
    after = snapshot.take(bazel, (), None, False, file)
    assert before.surroundings != after.surroundings
    assert before.tests["//app:t1"].structure != after.tests["//app:t1"].structure


def test_comment_in_the_rc_does_not_count(bazel, file):
    (bazel.folder / ".bazelrc").write_text("build --x\n")
    before = snapshot.take(bazel, (), None, False, file)
    (bazel.folder / ".bazelrc").write_text("# why\n\nbuild   --x\n")
    assert snapshot.take(bazel, (), None, False, file) == before


def test_an_answer_that_is_cut_off_is_an_error(bazel, file, monkeypatch):
    whole = bazel.aquery
    monkeypatch.setattr(bazel, "aquery", lambda *question: whole(*question)[:-3])
    with pytest.raises(BazelError, match="cannot be read"):
        snapshot.take(bazel, (), None, False, file)
    assert not file.exists()


def test_broken_target_that_is_manual_does_not_matter(bazel, file):
    whole = bazel.cquery

    def cquery(expression, *flags):
        if "//..." in expression or "t3" in expression:
            raise BazelError("ERROR: //app:t3 is broken")
        return whole(expression, *flags)

    bazel.cquery = cquery
    assert snapshot.take(bazel, (), None, False, file).tests.keys() == {"//app:t1", "//app:t2"}


def test_tree_that_does_not_load(bazel, file):
    (bazel.folder / "broken").touch()
    with pytest.raises(BazelError, match="broken"):
        snapshot.take(bazel, (), None, False, file)
    assert not file.exists()


def test_first_error_is_told(bazel, file):
    def cquery(expression, *_):
        raise BazelError("ERROR: of all" if "//..." in expression else "ERROR: of the default ones")

    bazel.cquery = cquery
    with pytest.raises(BazelError, match="of all"):
        snapshot.take(bazel, (), None, False, file)


def test_actions_of_tests_that_were_not_asked_for(bazel):
    """A test may be data of another."""
    actions = Actions()
    actions.test("//app:t2", [actions.files("t2.py")])
    actions.test("//app:t1", [actions.files("t1.py")])
    bazel.aquery = lambda *_: actions.answer()
    assert snapshot.ask_actions(bazel, (), ["//app:t1"]).tests.keys() == {"//app:t1"}


def test_no_tests(bazel, file):
    (bazel.folder / "targets.json").write_text("{}")
    taken = snapshot.take(bazel, (), None, False, file)
    assert (taken.tests, taken.actions()) == ({}, ActionGraph([], [], {}))


def test_zips_are_asked_for_only_where_something_reads_them(bazel):
    asked = snapshot.ask_actions(bazel, (), ["//app:t1"])
    assert len(bazel.asked) == 1
    (bazel.folder / "targets.json").write_text(
        json.dumps({**TARGETS, "//lib:lib": {"kind": "py_library", "srcs": ["bazel-out/program.zip"]}})
    )
    bazel.asked.clear()
    assert snapshot.ask_actions(bazel, (), ["//app:t1"]) != asked
    assert ["PythonZipper" in question for question in bazel.asked] == [True, False]


# Damage.


def test_nothing_there(file):
    assert snapshot.load(file) is None


@pytest.mark.parametrize("content", [b"", b"PK", b"no zip at all", b"\0" * 1000])
def test_foreign_file(file, content):
    file.parent.mkdir()
    file.write_bytes(content)
    assert snapshot.load(file) is None


@pytest.mark.parametrize(
    "members", [{}, {"other.json": "{}"}, {"tests.json": "{"}, {"tests.json": "{}"}, {"tests.json": "[]"}]
)
def test_foreign_zip(file, members):
    file.parent.mkdir()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    assert snapshot.load(file) is None


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
def test_truncated_file(bazel, file, part):
    snapshot.take(bazel, (), None, False, file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * part)])
    assert snapshot.load(file) is None


def test_folder_in_its_place(file):
    file.mkdir(parents=True)
    assert snapshot.load(file) is None


def test_failed_write_leaves_what_was_there(bazel, file, monkeypatch):
    snapshot.take(bazel, (), None, False, file)
    before = file.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        snapshot.take(bazel, ("--gpu",), None, False, file)
    assert file.read_bytes() == before


@pytest.mark.parametrize("member", ["tests.json", "actions.json", "targets.json"])
@pytest.mark.parametrize("start", [0, 8])
def test_damage_anywhere_is_seen_when_it_is_loaded(bazel, file, member, start):
    snapshot.take(bazel, (), None, False, file)
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        place = archive.getinfo(member).header_offset + 30 + len(member) + start
    content[place : place + 8] = b"\xff" * 8
    file.write_bytes(content)
    assert snapshot.load(file) is None


def test_foreign_content(file):
    file.parent.mkdir()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("tests.json", '{"tests": []}')
    assert snapshot.load(file) is None


def test_interrupted_write_leaves_nothing_behind(bazel, file, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(OSError, match="No space left"):
        snapshot.take(bazel, (), None, False, file)
    assert list(file.parent.iterdir()) == []


def test_others_may_read_it(bazel, file):
    snapshot.take(bazel, (), None, False, file)
    plain = file.with_name("plain")
    plain.touch()
    assert file.stat().st_mode == plain.stat().st_mode
