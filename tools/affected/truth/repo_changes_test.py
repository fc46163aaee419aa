from pathlib import Path
from random import Random

import pytest

from tools.affected.truth import workspace
from tools.affected.truth.edits import Workspace
from tools.affected.truth.repo_changes import KINDS, MACRO, TIERS

FILES = {
    ".bazelrc": "",
    "BUILD.bazel": "",
    "README.md": "",
    "pyproject.toml": "",
    "other.py": "",
    "lib/BUILD.bazel": """\
py_library(
    name = "lib",
    srcs = ["lib.py"],
)

trainer_test(
    name = "lib_test",
    srcs = ["lib_test.py"],
    tier = "unit",
    deps = [":lib"],
)
""",
    "lib/lib.py": "",
    "lib/lib.txt": "",
    "lib/lib_test.py": "",
    # (what is edited in them must be there)
    **{name: (Path(__file__).absolute().parents[3] / name).read_text() for name in (MACRO, TIERS)},
    "third_party/python/cpu.txt": "one==1 \\\n    --hash=sha256:1\n    # via two\ntwo==2 \\\n    --hash=sha256:2\n",
}


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root: Path = tmp_path_factory.mktemp("edited")
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    workspace.git(root, "init", "--quiet")
    workspace.commit(root, "A repository")
    ws = Workspace(root)
    ws.chosen = ("//lib:lib_test",)
    ws.read_by_chosen = ("lib/lib.py", "lib/lib.txt", "lib/lib_test.py")
    return ws


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_edits(edited: Workspace, name: str) -> None:
    expected = KINDS[name].apply(edited, Random(f"1/{name}"))
    assert workspace.git(edited.root, "status", "--porcelain")
    assert not expected.touched or KINDS[name].truth == "spawn"
    edited.reset()
    assert not workspace.git(edited.root, "status", "--porcelain")


def test_a_lock_allows_one_more_hash(edited: Workspace) -> None:
    KINDS["wheel locked otherwise"].apply(edited, Random(1))
    added = [line[1:] for line in workspace.git(edited.root, "diff", "--unified=0").splitlines() if line[:2] == "+ "]
    edited.reset()
    assert len(added) == 1
    assert added[0].startswith("    --hash=sha256:")
    assert added[0].endswith(" \\")
