"""The machine's Python as a toolchain, without what pip has put into it."""

_BUILD = """\
load("@rules_python//python:defs.bzl", "py_runtime", "py_runtime_pair")

package(default_visibility = ["//visibility:public"])

py_runtime(
    name = "runtime",
    files = [
        "fingerprint.txt",
        "pyvenv.cfg",
    ],
    interpreter = "bin/python3",
    python_version = "PY3",
    # -E -S: the stub that sets up a test's sys.path must not see the user's environment either.
    stub_shebang = "#!{python} -ES",
)

py_runtime_pair(
    name = "runtime_pair",
    py3_runtime = ":runtime",
)

toolchain(
    name = "toolchain",
    toolchain = ":runtime_pair",
    toolchain_type = "@bazel_tools//tools/python:toolchain_type",
)
"""

_FACTS = """
import os, sys, sysconfig
print("%d.%d" % sys.version_info[:2])
print(os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable))
print(" ".join(sys.version.split()), sysconfig.get_config_var("SOABI"), sysconfig.get_platform())
"""

def find_python(rctx, version):
    """The interpreter of this version on the machine.

    Args:
      rctx: the context of a repository rule.
      version: `major.minor`.

    Returns:
      struct(path, fingerprint); `path` has its links and shims resolved.
    """
    asked = rctx.getenv("TRAINYARD_PYTHON")
    seen = []
    for name in [asked] if asked else ["python" + version, "python3"]:
        exe = rctx.path(name) if name.startswith("/") else rctx.which(name)
        if not exe or not exe.exists:
            seen.append(name + ": not there")
            continue
        result = rctx.execute([exe, "-ISc", _FACTS])
        lines = result.stdout.strip().split("\n")
        if result.return_code == 0 and lines[0] == version:
            return struct(path = lines[1], fingerprint = lines[2])
        seen.append("{}: is {}".format(exe, lines[0] or result.stderr))
    fail("no Python {} on this machine ({}). Install python{} and put it on PATH, or name it: --repo_env=TRAINYARD_PYTHON=/path/of/python{}".format(
        version,
        "; ".join(seen),
        version,
        version,
    ))

def _host_python_impl(rctx):
    python = find_python(rctx, rctx.attr.python_version)

    # A virtual environment that has no site-packages folder: what pip has put into the interpreter stays outside.
    rctx.symlink(python.path, "bin/python3")
    rctx.file("pyvenv.cfg", "home = {}\ninclude-system-site-packages = false\n".format(python.path.rpartition("/")[0]))
    rctx.file("fingerprint.txt", python.fingerprint + "\n")
    rctx.file("BUILD.bazel", _BUILD.format(python = python.path))

host_python = repository_rule(
    implementation = _host_python_impl,
    attrs = {"python_version": attr.string(mandatory = True)},
    environ = ["PATH"],
    local = True,
)
