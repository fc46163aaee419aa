from pathlib import Path

import pytest

from tools.lint import house
from tools.lint.fixture_repo import LOADS, read_repo

LIBRARY = LOADS + 'py_library(name = "x", srcs = ["x.py"])\n'
TEST = LOADS + 'trainer_test(name = "x_test", srcs = ["x_test.py"], tier = "unit")\n'


def check(tmp_path: Path, **files: str) -> list[str]:
    return [f"{f.path}:{f.line}: {f.message} | {f.mend}" for f in house.check(read_repo(tmp_path, files))]


def test_clean(tmp_path: Path) -> None:
    files = {
        "testing/launch.py": "import torch.multiprocessing\nfrom testing import ports\n",
        "testing/ports.py": "",
        "testing/launch_test.py": "import torch.multiprocessing\n",
        "testing/BUILD.bazel": LOADS + 'trainer_test(name = "launch_test", srcs = ["launch_test.py"])\n',
        "testing/private.bzl": "py_test(name = 1)\n",
        "trainers/data/x_test.py": "from testing import launch\nfrom trainers.data import helper\n",
        "trainers/data/helper.py": "import testing.launch\n",
        "trainers/data/BUILD.bazel": TEST + 'py_library(name = "helper", srcs = ["helper.py"], testonly = True)\n',
        "trainers/sft/loop.py": "from trainers.data import sampler\nimport kernels.flash\nimport toolset\n",
        "trainers/sft/BUILD.bazel": LOADS,
        "tools/y_test.py": "import testing.launch\n",
        "tools/BUILD.bazel": LOADS + 'trainer_test(name = "y_test", srcs = ["y_test.py"])\n',
        "conftest.py": "import testing.launch\n",
    }
    assert check(tmp_path, **files) == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"trainers/x.py": "", "trainers/__init__.py": "from trainers import x\n", "trainers/BUILD.bazel": LIBRARY},
            "trainers/__init__.py:1: is not empty",
        ),
        (
            {"trainers/x.py": "import testing.launch\n", "trainers/BUILD.bazel": LIBRARY},
            "trainers/x.py:1: imports testing.launch: only test code imports testing",
        ),
        (
            {"trainers/x.py": "import os\nfrom tools.lint import fix\n", "trainers/BUILD.bazel": LIBRARY},
            "trainers/x.py:2: imports tools.lint.fix: users install trainers without",
        ),
        (
            {"kernels/x_test.py": "import trainers.data\n", "kernels/BUILD.bazel": TEST},
            "kernels/x_test.py:1: imports trainers.data: kernels know nothing of trainers",
        ),
        (
            {"trainers/data/x.py": "def f():\n    from trainers import sft\n", "trainers/data/BUILD.bazel": LIBRARY},
            "trainers/data/x.py:2: imports trainers.sft: imports run one way",
        ),
        (
            {"tools/x.py": "import testing\n", "tools/BUILD.bazel": LIBRARY},
            "tools/x.py:1: imports testing: only test code",
        ),
        (
            {"trainers/x_test.py": "", "trainers/BUILD.bazel": TEST.replace("trainer_test(", "py_test(")},
            "trainers/BUILD.bazel:3: //trainers:x_test is a py_test",
        ),
        (
            {"trainers/x_test.py": "", "trainers/BUILD.bazel": 'exports_files(["x_test.py"])'},
            "trainers/x_test.py:0: is a test that no trainer_test declares",
        ),
        ({"tools/x.bzl": "def x():\n    native.py_test()\n"}, "tools/x.bzl:2: calls py_test"),
        ({"docs/BUILD": ""}, "docs/BUILD:0: is called BUILD | git mv docs/BUILD docs/BUILD.bazel"),
        (
            {"trainers/x_test.py": "import torch.multiprocessing as mp\n", "trainers/BUILD.bazel": TEST},
            "trainers/x_test.py:1: a test starts processes through torch.multiprocessing",
        ),
        (
            {"trainers/x_test.py": "from torch import multiprocessing\n", "trainers/BUILD.bazel": TEST},
            "trainers/x_test.py:1: a test starts processes through torch.multiprocessing",
        ),
        (
            {"trainers/x_test.py": 'if __name__ == "__main__":\n    pass\n', "trainers/BUILD.bazel": TEST},
            "trainers/x_test.py:1: a test runs itself: __name__ == '__main__'",
        ),
        (
            {"trainers/x_test.py": "import pytest\npytest.main([])\n", "trainers/BUILD.bazel": TEST},
            "trainers/x_test.py:2: a test runs itself: pytest.main([])",
        ),
        (
            {"trainers/x.py": "", "trainers/y.py": "", "trainers/BUILD.bazel": LIBRARY.replace("]", ', "y.py"]')},
            "trainers/BUILD.bazel:3: //trainers:x holds 2 modules",
        ),
    ],
)
def test_a_breach(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    findings = check(tmp_path, **files)
    assert len(findings) == 1
    assert findings[0].startswith(expected)


def test_a_folder_that_bazel_does_not_watch(tmp_path: Path) -> None:
    module = 'module(name = "x")\n\nsource_tree(\n    name = "source_tree",\n    folders = ["docs", "tools"],\n)\n'
    findings = check(tmp_path, **{"MODULE.bazel": module, "tools/x.bzl": "", "kernels/x.bzl": "", "docs/x.md": ""})
    assert findings == [
        "MODULE.bazel:3: source_tree does not watch kernels/: new files there would go unnoticed"
        ' | add "kernels" to its folders'
    ]


def test_a_missing_init(tmp_path: Path) -> None:
    read_repo(tmp_path, {"trainers/data/x.py": ""})
    (tmp_path / "trainers/data/__init__.py").unlink()
    (finding,) = house.check(house.Repo.read(tmp_path))
    assert finding.path == "trainers/data/__init__.py"
    assert finding.mend.startswith("touch trainers/data/__init__.py")
