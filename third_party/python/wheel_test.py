"""Wheels as Bazel sees them: declared for a look at the graph, and installed from a folder."""

import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tools.bazel import host_bazel

HERE = Path(__file__).parent
DECLARED = ["--repo_env=TRAINYARD_WHEELS=declare", "--repo_env=TRAINYARD_UV=/nowhere/uv"]
FILES = (
    "cpu.txt",
    "extension.bzl",
    "finish_wheel.py",
    "hub.bzl",
    "interpreter.bzl",
    "lock.bzl",
    "site_packages.bzl",
    "wheel.bzl",
)
BUILD = """\
load("@bazel_skylib//rules:common_settings.bzl", "bool_flag")

bool_flag(name = "upload", build_setting_default = False, visibility = ["//visibility:public"])
"""
MODULE = """\
bazel_dep(name = "bazel_skylib", version = "1.9.0")
bazel_dep(name = "platforms", version = "1.0.0")
bazel_dep(name = "rules_python", version = "1.8.5")

python = use_extension("//third_party/python:extension.bzl", "python")
python.host(version = "3.11")
use_repo(python, "host_python")

pip = use_extension("//third_party/python:extension.bzl", "pip")
pip.lock(hub = "own", lock = "//third_party/python:own.txt")
pip.lock(hub = "pypi", lock = "//third_party/python:cpu.txt")
pip.source(dist = "made", hub = "own")
use_repo(pip, "own", "pypi")
"""
SETUPTOOLS = """\
import zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    info = "made-1.0.dist-info"
    with zipfile.ZipFile(folder + "/made-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("made.py", "by = {version!r}\\n")
        archive.writestr(f"{{info}}/METADATA", "Metadata-Version: 2.1\\nName: made\\nVersion: 1.0\\n")
        archive.writestr(f"{{info}}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr(f"{{info}}/RECORD", "made.py,,\\n")
    return "made-1.0-py3-none-any.whl"
"""


class Server:
    """One Bazel server on a workspace with the repo's lock and one of its own."""

    def __init__(self, workspace, output):
        self.workspace = workspace
        self.startup = [*host_bazel.command(), f"--output_user_root={output}"]
        self.where = [
            f"--repo_env=TRAINYARD_PYTHON={sys.executable}",
            "--repo_env=UV_OFFLINE=1",
            f"--repo_env=UV_FIND_LINKS={workspace}/links",
        ]

    def run(self, *arguments):
        return subprocess.run([*self.startup, *arguments], cwd=self.workspace, capture_output=True, text=True)

    def repository(self, label, *options):
        """The repository of the wheel `label`, fetched with further options."""
        result = self.run("query", f"deps({label}, 1)", *self.where, *options)
        assert result.returncode == 0, result.stderr
        (package,) = (line for line in result.stdout.splitlines() if line.endswith("//:pkg"))
        base = Path(self.run("info", "output_base").stdout.strip())
        return base / "external" / package.removesuffix("//:pkg").lstrip("@")


@pytest.fixture(scope="module")
def bazel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bazel")
    workspace = folder / "workspace"
    target = workspace / "third_party/python"
    target.mkdir(parents=True)
    (workspace / "links").mkdir()
    host_bazel.make_workspace(workspace)
    for name in FILES:
        (target / name).write_text((HERE / name).read_text())
    (target / "BUILD.bazel").write_text(BUILD)
    links = workspace / "links"
    make_wheel(links, "setuptools", "2.0", SETUPTOOLS.format(version="2.0"))
    locked = {
        "made==1.0": make_source(links),
        "part==2.0": f"{0:064}\n    # via tool",
        "setuptools==1.0": make_wheel(links, "setuptools", "1.0", SETUPTOOLS.format(version="1.0")),
        "tool==1.0": make_wheel(links, "tool", "1.0", "x = 1\n"),
    }
    (target / "own.txt").write_text("".join(f"{row} \\\n    --hash=sha256:{rest}\n" for row, rest in locked.items()))
    (workspace / "MODULE.bazel").write_text(MODULE)
    server = Server(workspace, folder / "output")
    yield server
    server.run("shutdown")


def make_wheel(folder, name, version, module):
    """Writes a wheel of one module; returns its digest."""
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        info = f"{name}-{version}.dist-info"
        archive.writestr(f"{name}.py", module)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n")
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def make_source(folder):
    """Writes the source of `made`, which setuptools builds; returns its digest."""
    files = {
        "PKG-INFO": "Metadata-Version: 2.2\nName: made\nVersion: 1.0\n",
        "pyproject.toml": '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools"\n',
    }
    source = folder / "made-1.0.tar.gz"
    with tarfile.open(source, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"made-1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return hashlib.sha256(source.read_bytes()).hexdigest()


def test_declared_wheel_of_the_lock_takes_neither_uv_nor_a_registry(bazel):
    wheel = bazel.repository("@pypi//torch", *DECLARED)
    stamp = (wheel / "stamp.txt").read_text().splitlines()
    (locked,) = [line for line in (HERE / "cpu.txt").read_text().splitlines() if line.startswith("torch==")]
    assert stamp[0].startswith(locked.split()[0] + " --hash=sha256:")
    assert " ".join(sys.version.split()) in stamp[1]
    assert stamp[2].startswith("declared, not installed")
    assert not [path for path in (wheel / "site-packages").iterdir() if not path.name.startswith(".")]


def test_declared_and_installed_differ_in_content_alone(bazel):
    def content(*options):
        wheel = bazel.repository("@own//tool", *options)
        return (wheel / "BUILD.bazel").read_text(), (wheel / "stamp.txt").read_text(), (wheel / "site-packages/tool.py")

    declared = content(*DECLARED)
    assert not declared[2].exists()
    installed = content()  # (in the same server: the variable is tracked)
    assert installed[2].read_text() == "x = 1\n"
    assert installed[0] == declared[0]
    assert "@own//part" in declared[0]
    assert installed[1] != declared[1]
    assert "declared" not in installed[1]
    assert content(*DECLARED)[1] == declared[1]
    assert not declared[2].exists()


def test_source_is_built_by_the_setuptools_of_the_lock(bazel):
    """The registry has a newer one."""
    made = bazel.repository("@own//made") / "site-packages/made.py"
    assert made.read_text() == "by = '1.0'\n"


def test_wheel_is_one_source_directory_unless_it_is_uploaded(bazel):
    wheel = bazel.repository("@own//tool")
    module = wheel / "site-packages/tool.py"
    module.chmod(0o644)
    mode = module.parent.stat().st_mode
    content = f"@@{wheel.name}//:content"

    def files(*options):
        result = bazel.run("cquery", content, "--output=files", *bazel.where, *options)
        assert result.returncode == 0, result.stderr
        return result.stdout.split()

    assert files() == [f"external/{wheel.name}/site-packages", f"external/{wheel.name}/stamp.txt"]
    output, stamp = files("--//third_party/python:upload")
    assert stamp == f"external/{wheel.name}/stamp.txt"
    assert output.startswith("bazel-out/") and output.endswith(f"/external/{wheel.name}/site-packages")

    result = bazel.run("build", content, "--//third_party/python:upload", *bazel.where)
    assert result.returncode == 0, result.stderr
    made = Path(bazel.run("info", "execution_root").stdout.strip()) / output
    assert (made / "tool.py").resolve() == module  # not copied
    assert module.stat().st_mode & 0o777 == 0o644  # nor changed: it may be a hard link into uv's cache
    assert module.parent.stat().st_mode == mode


def test_unknown_mode_is_refused(bazel):
    result = bazel.run("query", "@own//tool:all + deps(@own//tool)", "--repo_env=TRAINYARD_WHEELS=declared")
    assert result.returncode
    assert "TRAINYARD_WHEELS=declared: it is `declare`" in result.stderr
