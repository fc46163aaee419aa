from pathlib import Path

import pytest

from tools.affected.bench import big_workspace

SMALL = 160


def test_same_size_gives_same_commit_in_any_folder(tmp_path: Path) -> None:
    commits = []
    for name, targets in (("a", SMALL), ("b", SMALL), ("c", 2 * SMALL)):
        root = tmp_path / name
        root.mkdir()
        big_workspace.write(big_workspace.plan(targets), root, "7.7.1")
        assert big_workspace.git(root, "status", "--porcelain") == ""
        commits.append(big_workspace.git(root, "rev-parse", "HEAD"))
    assert commits[0] == commits[1] != commits[2]


def test_it_says_which_bazel_and_ignores_what_that_leaves(tmp_path: Path) -> None:
    big_workspace.write(big_workspace.plan(SMALL), tmp_path, "7.7.1")
    (tmp_path / "bazel-out").mkdir()
    (tmp_path / "bazel-out/x").touch()
    assert big_workspace.git(tmp_path, "status", "--porcelain") == ""
    assert big_workspace.git(tmp_path, "show", "HEAD:.bazelversion") == "7.7.1\n"
    assert "third_party/modules/zlib/MODULE.bazel" in big_workspace.git(tmp_path, "ls-files").splitlines()


@pytest.mark.parametrize("targets", [SMALL, 500, 2000])
def test_so_many_targets_half_of_them_tests(targets: int) -> None:
    workspace = big_workspace.plan(targets)
    assert len(workspace.dependencies) == targets
    assert len(workspace.tests) == targets // 2
    rules = sum(text.count("    name = ") for text in workspace.files.values())
    assert rules == targets


@pytest.mark.parametrize("targets", [0, 140, 170])
def test_size_that_cannot_be_is_refused(targets: int) -> None:
    with pytest.raises(ValueError, match=f"{targets} targets: a package has 20 .* such as 160"):
        big_workspace.plan(targets)


@pytest.mark.parametrize("targets", [500, 2000])
def test_layers_hubs_and_leaves(targets: int) -> None:
    workspace = big_workspace.plan(targets)
    for user, used in workspace.dependencies.items():
        for each in used:
            assert each in workspace.dependencies
            assert int(user[len("//layer")]) - int(each[len("//layer")]) in (0, 1) or each[:-1] == workspace.hub[:-1]
    assert len(workspace.dependents(workspace.leaf)) <= 3
    assert len(workspace.dependents(workspace.hub)) > targets // 10


def test_dependents_by_hand() -> None:
    workspace = big_workspace.Workspace(
        files={},
        dependencies={"//:a": (), "//:b": ("//:a",), "//:ta": ("//:a",), "//:tb": ("//:b",), "//:tc": ()},
        tests=frozenset({"//:ta", "//:tb", "//:tc"}),
        leaf="//:b",
        hub="//:a",
    )
    assert workspace.dependents("//:a") == {"//:ta", "//:tb"}
    assert workspace.dependents("//:b") == {"//:tb"}
    assert workspace.dependents("//:tc") == {"//:tc"}


def test_what_labels_say_is_in_the_build_files() -> None:
    workspace = big_workspace.plan(SMALL)
    package = workspace.files["layer7/p7/BUILD.bazel"]
    for label, used in workspace.dependencies.items():
        if label.startswith("//layer7/p7:"):
            rule = next(part for part in package.split("\n\n") if f'name = "{label.partition(":")[2]}"' in part)
            assert [each for each in workspace.dependencies if f'"{each}"' in rule] == sorted(
                used, key=list(workspace.dependencies).index
            )


@pytest.mark.parametrize("change", [each for each in big_workspace.CHANGES if each != "nothing"])
def test_edits_differ_from_turn_to_turn_and_from_the_base(change: str) -> None:
    workspace = big_workspace.plan(SMALL)
    first, affected = workspace.edit(change, 1)
    second, _ = workspace.edit(change, 2)
    assert first != second
    assert affected
    for path, text in (*first.items(), *second.items()):
        assert workspace.files.get(path) != text


@pytest.mark.parametrize("targets", [SMALL, 500, 2000, 10000])
def test_no_rule_gets_an_attribute_twice(targets: int) -> None:
    workspace = big_workspace.plan(targets)
    for change, attribute in (("BUILD: a test", "env"), ("BUILD: a hub library", "data")):
        edits, _ = workspace.edit(change, 1)
        text = next(text for path, text in edits.items() if path.endswith("BUILD.bazel"))
        rules = [rule for rule in text.split("\n\n") if f"    {attribute} = " in rule]
        assert all(rule.count(f"    {attribute} = ") == 1 for rule in rules)


def test_nothing_changes_nothing_and_unknown_changes_are_refused() -> None:
    workspace = big_workspace.plan(SMALL)
    assert workspace.edit("nothing", 1) == ({}, frozenset())
    with pytest.raises(ValueError, match="no change 'a wheel': there are nothing, a leaf library"):
        workspace.edit("a wheel", 1)
