"""Makes an installed wheel the same at any time and place, and says in a stamp what it holds.

usage: finish_wheel.py DIRECTORY STAMP REQUIREMENT
"""

import compileall
import hashlib
import os
import py_compile
import sys
import sysconfig
from pathlib import Path


def finish(site: Path, stamp: Path, requirement: str) -> None:
    """Removes what differs between machines, writes `stamp`, compiles bytecode.

    Args:
      site: the folder that the wheel was installed into.
      stamp: receives the locked line, the interpreter and the digest of each RECORD.
      requirement: the locked line.
    """
    # Scripts hold this machine's paths, programs (ruff) do not; uv leaves files of its own.
    for script in (site / "bin").glob("*"):
        with script.open("rb") as file:
            if file.read(2) == b"#!":
                script.unlink()
    for junk in (".lock", "CACHEDIR.TAG", ".gitignore"):
        (site / junk).unlink(missing_ok=True)

    lines = [requirement, sys.version, sysconfig.get_config_var("SOABI") or ""]
    for record in sorted(site.glob("*.dist-info/RECORD")):
        rows = record.read_text().splitlines()
        rows = sorted(row for row in rows if not row.startswith(("../", "bin/", "/")) and "/uv_cache.json," not in row)
        record.unlink()  # (a hard link into uv's cache: never written in place)
        record.write_text("\n".join(rows) + "\n")
        lines.append(hashlib.sha256(record.read_bytes()).hexdigest())
    stamp.write_text("\n".join(lines) + "\n")

    # Tests cannot write here, so without bytecode each would compile torch afresh. Hash-based and unchecked, it depends
    # on no times or paths. Files that do not compile are templates that are never imported.
    compileall.compile_dir(
        site,
        quiet=2,
        workers=1,
        stripdir=os.getcwd(),
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


if __name__ == "__main__":
    finish(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
