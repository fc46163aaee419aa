"""One locked wheel as a repository: a py_library whose content is ONE source directory.

A test that needs torch then stages one link, not 12,000 files; docs/python_packages.md has the measurements.
"""

load(":interpreter.bzl", "find_python")

_BUILD = """\
load("@rules_python//python:defs.bzl", "py_library")
load("{site_packages}", "site_packages")

package(default_visibility = ["//visibility:public"])

# Bazel does not look into a source directory; the stamp (locked line, interpreter, digest of what was installed) is what
# makes dependents run again.
site_packages(
    name = "content",
    directory = "site-packages",
    stamp = "stamp.txt",
)

py_library(
    name = "pkg",
    data = [":content"],
    imports = ["site-packages"],
    tags = {tags},
    deps = {deps},
)
"""

_STAMP_DECLARED = """\
{requirement}
{interpreter}
declared, not installed (TRAINYARD_WHEELS=declare): nothing that imports it can run
"""

def _install(rctx):
    """Writes the wheel's content to `site-packages`, and its stamp."""
    uv = rctx.os.environ.get("TRAINYARD_UV") or rctx.which("uv")
    if not uv:
        fail("uv, which installs the locked wheels, is not here: start Bazel through ./bazelw, or put uv on PATH")
    python = find_python(rctx, rctx.attr.python_version)

    # `==2.13.0` also matches a 2.13.0+cpu that some index holds; `===` does not.
    rctx.file("requirement.txt", rctx.attr.requirement.replace("==", "===", 1) + "\n", executable = False)
    command = [uv, "pip", "install", "--quiet", "--no-config", "--no-deps", "--require-hashes"]
    if rctx.attr.setuptools:
        rctx.file("build.txt", rctx.attr.setuptools + "\n", executable = False)
        command.append("--build-constraints=build.txt")
    else:
        command.append("--only-binary=:all:")

    # Hashes are locked, so it is safe to take a file from whichever of the configured indexes has it.
    command += ["--index-strategy=unsafe-best-match", "--python", python.path]
    command += ["--target=site-packages", "--requirement=requirement.txt"]
    result = rctx.execute(command, timeout = 1800, quiet = True)
    if result.return_code and "+cpu" in rctx.attr.version:
        # CPU builds of torch have an index of their own, which uv knows.
        result = rctx.execute(command + ["--torch-backend=cpu"], timeout = 1800, quiet = True)
    if result.return_code:
        fail("cannot install {} (third_party/python): {}{}\n{}".format(
            rctx.attr.requirement.partition(" ")[0],
            result.stdout,
            result.stderr,
            "The file that the registry gives is not the locked one; nothing of it is used. If the new one is right: ./bazelw run //tools/bazel:lock" if "ash mismatch" in result.stderr else "Check the network and the machine's pip or uv configuration, then run again.",
        ))
    finish = rctx.execute(
        [python.path, "-IS", rctx.path(rctx.attr._finish), "site-packages", "stamp.txt", rctx.attr.requirement],
        timeout = 1800,
        quiet = True,
    )
    if finish.return_code:
        fail("cannot prepare {}: {}{}".format(rctx.attr.requirement.partition(" ")[0], finish.stdout, finish.stderr))

def _declare(rctx):
    """Writes an empty `site-packages`, and a stamp that knows the locked line and the interpreter alone."""
    rctx.file("site-packages/.declared")
    rctx.file("stamp.txt", _STAMP_DECLARED.format(
        interpreter = rctx.read(Label("@host_python//:fingerprint.txt")).strip(),
        requirement = rctx.attr.requirement,
    ))

def _wheel_impl(rctx):
    mode = rctx.getenv("TRAINYARD_WHEELS")
    if mode == "declare":
        _declare(rctx)
    elif mode:
        fail("TRAINYARD_WHEELS={}: it is `declare`, for a look at the graph without wheels, or unset".format(mode))
    else:
        _install(rctx)
    rctx.file("BUILD.bazel", _BUILD.format(
        deps = repr(rctx.attr.deps),
        site_packages = Label(":site_packages.bzl"),
        tags = repr(["wheel={}=={}".format(rctx.attr.dist, rctx.attr.version)]),
    ))

wheel = repository_rule(
    implementation = _wheel_impl,
    attrs = {
        "deps": attr.string_list(doc = "Labels of the hub."),
        "dist": attr.string(),
        "python_version": attr.string(),
        "requirement": attr.string(doc = "The locked line with its hashes."),
        "setuptools": attr.string(doc = "The locked line of what builds it here, if it is published as source alone."),
        "version": attr.string(),
        "_finish": attr.label(default = "//third_party/python:finish_wheel.py"),
    },
)
