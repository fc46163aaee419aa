"""The Bazel that runs this build as a program, for tests and tools that drive one: docs/bazel.md."""

_LAUNCHER = """\
#!/bin/sh
# Startup options may come first: bazel --output_base=/x query //...
{body}
"""

# A test has neither HOME nor USER. Bazel takes the name of the user from there or the system, which need not know him.
_START = """\
[ -n "${{HOME:-}}" ] || [ -z "${{TEST_TMPDIR:-}}" ] || export HOME="$TEST_TMPDIR"
[ -n "${{USER:-}}" ] || export USER="$(id -un 2>/dev/null || id -u)"
exec {command} "$@"\
"""

_NONE = """\
echo 'no Bazel to start: neither did bazelw start this build, nor is bazel or bazelisk on its PATH.' \\
    'Start the build with ./bazelw, or put bazel on PATH.' >&2
exit 127\
"""

def _quoted(word):
    return "'" + word.replace("'", "'\\''") + "'"

def _command(rctx):
    """The shell words that start Bazel; None if there is none."""

    # bazelw says how it started this Bazel. Without it Bazel does not tell, and PATH is all there is to go by.
    said = rctx.getenv("TRAINYARD_BAZEL")
    if said:
        return said
    rctx.getenv("PATH")  # (so that this rule runs again when it changes)
    for name in ["bazel", "bazelisk"]:
        program = rctx.which(name)
        if program:
            version = "env USE_BAZEL_VERSION={} ".format(_quoted(native.bazel_version)) if native.bazel_version else ""
            return version + _quoted(str(program))
    return None

def _host_bazel_impl(rctx):
    command = _command(rctx)
    rctx.file("bazel", _LAUNCHER.format(body = _START.format(command = command) if command else _NONE))
    rctx.file("BUILD.bazel", """\
package(default_visibility = ["//visibility:public"])

exports_files(["bazel"])
""")

host_bazel = repository_rule(
    doc = "`:bazel`, a program that is the Bazel of this build, with the startup options and the rc that bazelw chose.",
    implementation = _host_bazel_impl,
)
