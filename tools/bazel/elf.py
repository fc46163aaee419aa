"""Makes programs of another distribution run here: their loader and libraries are copied beside them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tools.bazel.progress import SetupError


def relocate(programs: Iterable[Path], root: Path, libraries: Path, patchelf: Path) -> None:
    """Points ELF programs to the loader and the libraries they were built for.

    What these programs run uses the machine's own.

    Args:
      programs: they are changed in place.
      root: where the packages that hold loader and libraries are unpacked.
      libraries: an empty or missing folder for both; it must stay where it is.
      patchelf: the program of this name.

    Raises:
      SetupError: a program needs a library that is not below `root`.
    """
    libraries.mkdir(exist_ok=True)
    (loader,) = {path.resolve() for path in root.glob("usr/lib/*-linux-gnu/ld-linux-*.so.*")}
    own_loader = shutil.copy(loader, libraries)
    for program in programs:
        listing = subprocess.run(
            [str(loader), "--library-path", str(loader.parent), "--list", str(program)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        if "not found" in listing:
            raise SetupError(f"{program.name} needs a library that was not fetched:\n{listing}")
        for path in re.findall(r"=> (/\S+)", listing):
            shutil.copy(path, libraries)
        command = ["--set-interpreter", str(own_loader), "--force-rpath", "--set-rpath", str(libraries), str(program)]
        subprocess.run([str(patchelf), *command], check=True)
        program.chmod(0o755)
