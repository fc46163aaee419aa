"""The engine of //tools/remote as a repository, for tests that bring a cluster up."""

load("//third_party/python:interpreter.bzl", "find_python")

def _remote_engine_impl(rctx):
    python = find_python(rctx, rctx.attr.python_version)
    for source in rctx.attr._sources:
        rctx.watch(source)
    root = rctx.path(Label("//:MODULE.bazel")).dirname
    result = rctx.execute(
        [python.path, "-m", "tools.remote.engine"],
        environment = {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
        timeout = 1800,
        quiet = False,
    )
    if result.return_code:
        fail("no engine for //tools/remote: {}{}".format(result.stdout, result.stderr))
    rctx.file("engine.json", result.stdout)
    rctx.file("BUILD.bazel", """\
package(default_visibility = ["//visibility:public"])

exports_files(["engine.json"])
""")

remote_engine = repository_rule(
    doc = "`:engine.json`: where the programs of the engine are, in the user's cache.",
    implementation = _remote_engine_impl,
    attrs = {
        "python_version": attr.string(default = "3.11"),
        "_sources": attr.label_list(default = [
            "//tools/bazel:debian.py",
            "//tools/bazel:elf.py",
            "//tools/bazel:requirements.txt",
            "//tools/remote:engine.py",
            "//tools/remote:requirements.txt",
        ]),
    },
)
