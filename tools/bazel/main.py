"""Entry of `bazelw`: chooses the Bazel to run and the world it lives in, provides what is missing, and becomes it.

Two worlds, same BUILD files. Where a Bazel registry can be reached (`online`), MODULE.bazel's dependencies come from
there. Where none can (`offline`), they come from Debian's packages and from third_party/modules.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if sys.path[0] == str(Path(__file__).resolve().parent):
    # (run as a script by bazelw; imports are from the root of the repo everywhere)
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tools.bazel import choose, registry, store
from tools.bazel.progress import SetupError, say

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: list[str]) -> int:
    """Runs Bazel with `arguments` in place of this process; returns only when it cannot."""
    try:
        chosen = choose.bazel((ROOT / ".bazelversion").read_text().strip())
        uv = choose.uv()
        rc = choose.write_rc(chosen, uv, registry.uv_environment_here())
    except SetupError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; the next run repairs what was left half-done")
        return 130
    os.environ.setdefault("HOME", str(store.home()))
    os.environ.setdefault("USER", store.user())
    os.environ.update(chosen.environ)
    os.execv(chosen.program, [chosen.program, *chosen.startup, f"--bazelrc={rc}", *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
