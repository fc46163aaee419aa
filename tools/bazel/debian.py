"""Takes packages from the Debian mirror of this machine, without installing them and without root.

A private apt state below the cache folder is used, so the machine's own is neither needed nor changed. apt verifies
the mirror's signature and each package's hash.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from tools.bazel.progress import SetupError, step

# The first suite with Bazel 7.7.1. Its name stays when it becomes stable; "testing" moves on.
SUITE = "forky"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def _os_release() -> dict[str, str]:
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except FileNotFoundError:
        return {}
    return {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}


def _run(command: list[str], environ: dict[str, str], doing: str, cwd: Path | None = None) -> str:
    result = subprocess.run(command, env=environ, cwd=cwd, capture_output=True, text=True, check=False)
    if result.returncode:
        errors = [line for line in result.stderr.splitlines() if line.startswith(("E:", "Err:", "dpkg"))]
        more = [f"... and {len(errors) - 3} more"] if len(errors) > 3 else []
        raise SetupError(
            f"{doing} failed: {' '.join(command[:2])} said\n" + ("\n".join(errors[:3] + more) or result.stderr) + "\n"
            "Nothing half-fetched is used. Check the mirror named in the machine's apt sources, then run again; "
            "what has come so far is kept"
        )
    return result.stdout


def mirror() -> str:
    """The address of the Debian mirror that this machine's apt is configured for.

    Raises:
      SetupError: this is no Debian, or no source of its apt is a Debian archive.
    """
    release = _os_release()
    missing = [tool for tool in ("apt-get", "dpkg-deb") if not shutil.which(tool)]
    if missing or release.get("ID") != "debian":
        raise SetupError(
            f"no Bazel can be provided here: this is {release.get('PRETTY_NAME', 'an unknown system')}, and only "
            "Debian packages one to assemble. Put bazel or bazelisk on PATH, or let this machine reach Bazel's releases"
        )
    listing = _run(
        ["apt-get", "indextargets", "--format", "$(CREATED_BY) $(RELEASE) $(COMPONENT) $(REPO_URI)"],
        dict(os.environ),
        "reading apt's sources",
    )
    for line in listing.splitlines():
        created_by, suite, component, uri = line.split(" ", 3)
        if created_by == "Packages" and component == "main" and suite in (release.get("VERSION_CODENAME"), "stable"):
            return uri
    raise SetupError(
        f"apt's sources name no archive with {release.get('VERSION_CODENAME')}/main: add one to /etc/apt/sources.list.d"
    )


class Apt:
    """A private apt whose only source is `SUITE` of this machine's mirror."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for part in ("lists/partial", "cache/archives/partial", "empty", "debs"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        signed_by = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
        (folder / "sources.list").write_text(f"deb {signed_by}{mirror()} {SUITE} main\n")
        options = {
            "Dir::Etc::SourceList": folder / "sources.list",
            "Dir::Etc::SourceParts": folder / "empty",
            "Dir::Etc::PreferencesParts": folder / "empty",
            "Dir::State": folder,
            "Dir::State::Status": folder / "status",
            "Dir::Cache": folder / "cache",
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
            # A mirror may be a snapshot; its signature is verified all the same.
            "Acquire::Check-Valid-Until": "false",
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "",
        }
        (folder / "apt.conf").write_text("".join(f'{key} "{value}";\n' for key, value in options.items()))
        self._environ = {**os.environ, "APT_CONFIG": str(folder / "apt.conf"), "LC_ALL": "C.UTF-8"}

    def update(self) -> None:
        """Fetches and verifies the suite's index.

        Raises:
          SetupError: the mirror does not answer, or the signature is wrong.
        """
        with step(f"reading the index of Debian {SUITE}"):
            # (a failed download of an index is only a warning to apt unless told otherwise)
            _run(["apt-get", "update", "--error-on=any"], self._environ, f"apt-get update of {SUITE}")

    def version(self, package: str) -> str:
        """The version of `package` in the suite; empty when it is not there."""
        policy = _run(["apt-cache", "policy", package], self._environ, f"looking up {package}")
        found = re.search(r"Candidate: (\S+)", policy)
        return found[1] if found and found[1] != "(none)" else ""

    def closure(self, package: str) -> list[str]:
        """`package` and all it depends on."""
        plan = _run(["apt-get", "install", "--simulate", package], self._environ, f"resolving {package}")
        return sorted(set(re.findall(r"^Inst (\S+)", plan, re.MULTILINE)))

    def unpack(self, packages: list[str], root: Path) -> None:
        """Downloads `packages` and unpacks them below `root`.

        Raises:
          SetupError: a package is missing on the mirror or does not have the hash of the signed index.
        """
        debs = self._folder / "debs"
        with step(f"fetching {len(packages)} Debian packages"):
            _run(["apt-get", "download", *packages], self._environ, "fetching packages", cwd=debs)
        with step(f"unpacking {len(packages)} Debian packages"):
            for deb in sorted(debs.glob("*.deb")):
                _run(["dpkg-deb", "--extract", str(deb), str(root)], dict(os.environ), f"unpacking {deb.name}")
