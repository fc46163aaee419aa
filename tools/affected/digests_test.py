import os

import pytest

from tools.affected.digests import TreeDigests, external_digests, is_workspace_file, links_into, product_digest, touched
from tools.affected.git_trees import Entry


class Tree:
    """Stands for the repository: path to content, `-> TARGET` for a link, `* CONTENT` for a program."""

    def __init__(self, files):
        self._files = files

    def files(self, _tree):
        modes = {"->": "120000", "* ": "100755"}
        return {
            path: Entry(modes.get(text[:2], "100644"), text.removeprefix("* ")) for path, text in self._files.items()
        }

    def content(self, _tree, path):
        return self._files[path].removeprefix("-> ")


def digests(**files):
    return TreeDigests(Tree({name.replace("__", "/"): text for name, text in files.items()}), "tree")


def test_file():
    digest = digests(a="1", b="1", c="2", run="* 1", lib__a="1")
    assert digest("a") == digest("b") == digest("lib/a")
    assert len({digest("a"), digest("c"), digest("run")}) == 3


def test_missing():
    digest = digests(a="1")
    assert digest("b") == digest("a/b") == digest("lib") == "missing"


def test_link_stands_for_its_target():
    digest = digests(
        a="1", lib__b="2", near="-> a", lib__up="-> ../a", lib__beside="-> b", twice="-> lib/up", dead="-> no"
    )
    assert digest("near") == digest("lib/up") == digest("twice") == digest("a")
    assert digest("lib/beside") == digest("lib/b")
    assert digest("dead") == "missing"


def test_link_to_a_folder():
    digest = digests(real__a="1", real__sub__b="2", link="-> real", lib__link="-> ../real/sub", real__in="-> ../link/a")
    assert digest("link/a") == digest("real/a")
    assert digest("lib/link/b") == digest("link/sub/b") == digest("real/sub/b")
    assert digest("link/in") == digest("real/a")
    assert digest("link") == digest("real")
    assert digest("link/none") == "missing"


def test_chain_of_links():
    def chain(end):
        return digests(end=end, **{f"l{i}": f"-> l{i + 1}" for i in range(10)}, l10="-> end")

    assert chain("1")("l0") == chain("1")("end") != chain("2")("l0")


def test_endless_links():
    digest = digests(a="-> b", b="-> a", c="-> c/d")
    assert digest("a") == digest("b") == digest("c") == "endless links"


def test_link_out_of_the_workspace():
    digest = digests(up="-> ../outside", lib__up="-> ../../x/../y", absolute="-> /etc/hosts")
    assert digest("up") == "outside ../outside"
    assert digest("lib/up") == "outside ../y"
    assert digest("absolute") == "outside /etc/hosts"


def test_folder_is_all_that_is_below():
    digest = digests(data__a="1", data__sub__b="2", database="3")
    before = digest("data")
    assert before == digests(data__a="1", data__sub__b="2", database="other", more="5")("data")
    others = [
        digests(data__a="1", data__sub__b="other"),
        digests(data__a="1", data__sub__c="2"),
        digests(data__a="1", data__b="2"),
        digests(data__a="1", data__sub__b="* 2"),
        digests(data__a="1", data__sub__b="2", data__sub__new="n"),
        digests(data__a="1"),
    ]
    assert len({before, *(other("data") for other in others)}) == 7


def test_folder_keeps_its_digest_where_it_moves():
    assert digests(a__x="1")("a") == digests(b__c__x="1")("b/c")


def test_external_files(tmp_path):
    folder = tmp_path / "external/wheel"
    (folder / "site").mkdir(parents=True)
    (folder / "stamp").write_text("1")
    (folder / "run").write_text("1")
    (folder / "run").chmod(0o755)
    (folder / "link").symlink_to("stamp")
    (folder / "site-link").symlink_to("site")
    paths = ["external/wheel/" + name for name in ("stamp", "run", "link", "site", "site-link", "gone")]
    found = external_digests([*paths, "lib/a.py", "bazel-out/x"], tmp_path)
    assert list(found) == paths
    stamp, run, link, site, site_link, gone = found.values()
    assert stamp == link != run
    assert run.removeprefix("x ") == stamp.removeprefix("- ")
    assert site == site_link == "folder"
    assert gone == "missing"
    (folder / "stamp").write_text("2")
    assert external_digests(paths, tmp_path)[paths[0]] != stamp


def test_links_into_the_workspace(tmp_path):
    base, workspace = tmp_path / "output", tmp_path / "tree"
    (workspace / "lib").mkdir(parents=True)
    (base / "external/sources").mkdir(parents=True)
    for name in ("a.py", "lib/b.py"):
        (workspace / name).write_text(name)
    (base / "external/sources/own.txt").write_text("own")
    links = {"a.src": "a.py", "b.src": "lib/b.py", "folder": "lib"}
    for link, target in links.items():
        (base / "external/sources" / link).symlink_to(workspace / target)
    (base / "external/sources/again").symlink_to("a.src")
    (base / "external/sources/away").symlink_to(tmp_path / "tree.txt")
    paths = [f"external/sources/{name}" for name in (*links, "again", "own.txt", "away", "gone")]
    found = links_into(paths, base, workspace)
    expected = {**links, "again": "a.py"}
    assert found == {f"external/sources/{link}": target for link, target in expected.items()}


def test_products(tmp_path):
    for name, files in {
        "a": {"x": "1", "sub/y": "2"},
        "b": {"x": "1", "sub/y": "3"},
        "c": {"x": "1", "suby": "2"},
    }.items():
        for path, text in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text(text)
    found = [product_digest(tmp_path / path) for path in ("a", "b", "c", "a/x", "a/sub/y")]
    assert len(set(found)) == 5
    assert product_digest(tmp_path / "b/x") == product_digest(tmp_path / "a/x")
    assert product_digest(tmp_path / "gone") is None
    os.rename(tmp_path / "a", tmp_path / "moved")
    assert product_digest(tmp_path / "moved") == found[0]


@pytest.mark.parametrize(
    ("path", "inside"), [("lib/a.py", True), ("external/w/a.py", False), ("bazel-out/a", False), ("externals/a", True)]
)
def test_workspace_files(path, inside):
    assert is_workspace_file(path) == inside


def test_touched():
    one = Entry("100644", "1")
    changed = {"lib/a.py": (one, None), "data/deep/new.txt": (None, one)}
    paths = ["lib/a.py", "lib/b.py", "data", "data/deep", "dat", "data/deep/new.txt/x", "lib"]
    assert touched(paths, changed) == {"lib/a.py", "data", "data/deep", "lib"}
