"""The repo's own source files as a repository, for tests that read all of them.

A test sees what it declares, and no target can name files of other packages that nothing declares. So this repository
watches the folders of the workspace and links every source file: a new file arrives with the next build, a changed one
changes the inputs of the lint tests, and they are cached and run remotely like any other. Each link ends in `.src`,
or a linked BUILD file would make a package of this repository.
"""

load("//third_party/python:lock.bzl", "parse_lock")

# As in tools/lint/tree.py.
_NAMES = [".bazelignore", "BUILD", "WORKSPACE", "pyproject.toml"]
_SUFFIXES = (".bazel", ".bzl", ".py", ".pyi")

def _ignored(rctx, root):
    path = root.get_child(".bazelignore")
    lines = rctx.read(path, watch = "yes").split("\n") if path.exists else []
    return [line.strip().removesuffix("/") for line in lines if line.strip() and not line.startswith("#")]

def _source_files(rctx):
    """The source files of the workspace: {path relative to the root: path}."""
    root = rctx.workspace_root
    ignored = _ignored(rctx, root)

    # Whole folders, not each listing: once a folder whose listing is watched is deleted, Bazel 7 cannot evaluate this
    # repository any more. So only folders that MODULE.bazel names are watched, and the root. That makes this repository
    # depend on the content of each file, too, where the names are not told (docs/affected.md).
    told = rctx.getenv("TRAINYARD_FILE_NAMES")
    for name in rctx.attr.folders:
        if not told and root.get_child(name).exists:
            rctx.watch_tree(root.get_child(name))
    found = {}
    folders = [("", root)]
    for _ in range(100000):  # Starlark has neither recursion nor while
        if not folders:
            break
        relative, folder = folders.pop()
        entries = folder.readdir(watch = "no" if relative or told else "yes")
        if "pyvenv.cfg" in [entry.basename for entry in entries]:
            continue
        for entry in entries:
            name = entry.basename
            below = relative + name
            if name in _NAMES or name.endswith(_SUFFIXES):
                found[below] = entry
            elif (not name.startswith((".", "bazel-")) and name != "__pycache__" and below not in ignored and
                  entry.is_dir):
                folders.append((below + "/", entry))
    return found

def _wheels(rctx):
    """The distributions that every lock has: their labels hold on every platform."""
    names = None
    for lock in rctx.attr.locks:
        dists = parse_lock(rctx.read(lock), str(lock))
        names = sorted(dists) if names == None else [name for name in names if name in dists]
    return names or []

def _source_tree_impl(rctx):
    files = _source_files(rctx)
    for relative, path in files.items():
        rctx.symlink(path, "tree/" + relative + ".src")
    rctx.file("BUILD.bazel", """\
package(default_visibility = ["//visibility:public"])

exports_files(["tree/pyproject.toml.src"])

filegroup(
    name = "tree",
    srcs = [
{srcs}
    ],
)
""".format(srcs = "\n".join(["        {},".format(repr("tree/" + path + ".src")) for path in sorted(files)])))
    rctx.file("wheels.bzl", """\
\"\"\"Every distribution of the lock.\"\"\"

WHEELS = {}
""".format(repr(["@{}//{}".format(rctx.attr.hub, name) for name in _wheels(rctx)])))

source_tree = repository_rule(
    doc = "`:tree`, the source files of the workspace; `wheels.bzl`, the labels of every locked wheel.",
    implementation = _source_tree_impl,
    attrs = {
        "folders": attr.string_list(doc = "The top-level folders with sources; //tools/lint:repo_house_test checks them."),
        "hub": attr.string(default = "pypi", doc = "The hub that the locks are for."),
        "locks": attr.label_list(doc = "The hub's locked requirements files, one per accelerator."),
    },
)
