"""Entry of `bazelw`: chooses the Bazel to run and the world it lives in, provides what is missing, and becomes it.

Two worlds, same BUILD files. Where a Bazel registry can be reached (`online`), MODULE.bazel's dependencies come from
there. Where none can (`offline`), they come from Debian's packages and from third_party/modules.
"""

from __future__ import annotations

import os
import sys

if os.path.realpath(sys.path[0]) == os.path.dirname(os.path.realpath(__file__)):
    # (run as a script by bazelw; imports are from the root of the repo everywhere)
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.realpath(sys.path[0])))

from tools.bazel import kept

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))


def decide() -> kept.Start:
    """Which command runs Bazel here, and the variables that it needs; provides what is missing.

    Raises:
      SetupError: none can be had; says why.
    """
    from tools.bazel import choose, registry  # (not needed by a call that finds its decision kept)

    witnesses = choose.witnesses()
    known = kept.facts(witnesses or ())
    with open(os.path.join(ROOT, ".bazelversion"), encoding="utf-8") as file:
        chosen = choose.bazel(file.read().strip())
    rc = choose.write_rc(chosen, choose.uv(), registry.uv_environment_here())
    start = choose.command(chosen, rc), chosen.environ
    # What this call itself has provided or written makes the next one decide again; that decision is kept.
    if witnesses is not None and kept.facts(witnesses) == known:
        kept.keep(ROOT, known, start)
    return start


def main(arguments: list[str]) -> int:
    """Runs Bazel with `arguments` in place of this process; returns only when it cannot."""
    start = kept.recall(ROOT)
    if start is None:
        from tools.bazel.progress import SetupError, say

        try:
            start = decide()
        except SetupError as error:
            say(f"error: {error}")
            return 1
        except KeyboardInterrupt:
            say("interrupted; the next run repairs what was left half-done")
            return 130
    command, environ = start
    os.environ.setdefault("HOME", kept.home())
    os.environ.setdefault("USER", kept.user())
    os.environ.update(environ)
    os.execv(command[0], [*command, *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
