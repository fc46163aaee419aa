"""The rules of the house that a machine can check (CONTRIBUTING.md says why they are there)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from tools.lint.finding import FIX, Finding
from tools.lint.repo import Repo


@dataclass(frozen=True)
class Layer:
    """Files below `folder` do not import modules below `forbidden`.

    Attributes:
      folder: "" is every folder.
      forbidden: dotted module.
      why: ends the message.
      tests: whether the rule also holds for test code.
    """

    folder: str
    forbidden: str
    why: str
    tests: bool


_COMPONENTS = "attention", "checkpoint", "context_parallel", "data", "lora", "models", "optim", "parallel"

LAYERS = (
    Layer("trainers", "tools", "users install trainers without the repo's tools", tests=False),
    Layer("kernels", "trainers", "kernels know nothing of trainers", tests=True),
    Layer("kernels", "tools", "kernels know nothing of the repo's tools", tests=False),
    *(
        Layer(
            f"trainers/{component}",
            "trainers.sft",
            "imports run one way: sft builds on the other components",
            tests=True,
        )
        for component in _COMPONENTS
    ),
    # `testing` imports itself; everything else does so in test code only.
    Layer(
        "",
        "testing",
        "only test code imports testing: move the code, or mark its target `testonly = True`",
        tests=False,
    ),
)


def check(repo: Repo) -> list[Finding]:
    """Every breach of a house rule."""
    return sorted(
        {*_packages(repo), *_layers(repo), *_tests(repo), *_build_files(repo), *_macros(repo), *_watched(repo)}
    )


def missing_packages(repo: Repo) -> list[PurePosixPath]:
    """The `__init__.py` files that folders of Python files lack."""
    folders = sorted({path.parent for path in repo.python_files} - {PurePosixPath()})
    return [folder / "__init__.py" for folder in folders if folder / "__init__.py" not in repo.python_files]


def _packages(repo: Repo) -> Iterator[Finding]:
    for init in missing_packages(repo):
        mend = f"touch {init}, or {FIX}"
        yield Finding(str(init), 0, "is missing: every folder of Python files is a package", mend)
    for init in repo.python_files:
        if init.name == "__init__.py" and repo.text(init):
            mend = f"import what is needed from its own module, then: : > {init}"
            yield Finding(str(init), 1, "is not empty: importing one module of a package must not load others", mend)


def _layers(repo: Repo) -> Iterator[Finding]:
    for path, imports in repo.imports.items():
        for layer in LAYERS:
            inside = path.startswith(layer.folder + "/") if layer.folder else True
            exempt = path.startswith(layer.forbidden.replace(".", "/") + "/")
            if not inside or exempt or (not layer.tests and path in repo.test_files):
                continue
            for imported in imports:
                name = f"{imported.module}.{imported.name}" if imported.name else imported.module
                if f"{name}.".startswith(layer.forbidden + "."):
                    yield Finding(path, imported.line, f"imports {name}: {layer.why}", "remove the import")


def _tests(repo: Repo) -> Iterator[Finding]:
    tested = {
        path
        for target in repo.python_targets
        if target.kind in ("py_test", "trainer_test")
        for path, _ in target.source_paths()
    }
    for file in repo.python_files:
        path = str(file)
        if file.stem.endswith("_test") and path in repo.declared and path not in tested:
            yield Finding(
                path,
                0,
                "is a test that no trainer_test declares",
                f"add it to a trainer_test beside it ({_build(repo, path)})",
            )
        if path not in repo.test_files:
            continue
        if not path.startswith("testing/"):
            for imported in repo.imports.get(path, []):
                name = f"{imported.module}.{imported.name}"
                if f"{name}.".startswith("torch.multiprocessing."):
                    mend = (
                        "write it as a DistributedTest (testing/distributed): it ends hung ranks and shows their stacks"
                    )
                    yield Finding(path, imported.line, "a test starts processes through torch.multiprocessing", mend)
        if file.stem.endswith("_test"):
            yield from _own_runner(repo, file)


def _own_runner(repo: Repo, file: PurePosixPath) -> Iterator[Finding]:
    try:
        module = ast.parse(repo.text(file))
    except SyntaxError:
        return  # ruff reports it
    for node in ast.walk(module):
        text = ast.unparse(node) if isinstance(node, (ast.Compare, ast.Call)) else ""
        if text.startswith(("__name__ ==", "pytest.main(")):
            yield Finding(
                str(file),
                getattr(node, "lineno", 0),
                f"a test runs itself: {text}",
                "remove it: trainer_test supplies the runner",
            )


def _build_files(repo: Repo) -> Iterator[Finding]:
    for file in repo.files:
        if file.name == "BUILD":
            yield Finding(str(file), 0, "is called BUILD", f"git mv {file} {file}.bazel")
    for target in repo.python_targets:
        if target.kind == "py_test":
            mend = 'load("//testing:defs.bzl", "trainer_test") and write it as trainer_test with a tier'
            yield Finding(target.build_file, target.line, f"{target.label} is a py_test", mend)
        modules = [(path, entry) for path, entry in target.source_paths() if not path.endswith("/__init__.py")]
        if target.kind == "py_library" and len(modules) > 1 and not all(entry.keep for _, entry in modules):
            message = f"{target.label} holds {len(modules)} modules: a test that needs one would depend on all"
            mend = "write one py_library per module; where they are one unit, `# keep: why` on the line of each file"
            yield Finding(target.build_file, target.line, message, mend)


def _macros(repo: Repo) -> Iterator[Finding]:
    """`py_test` in a .bzl file outside `testing`, where trainer_test is made."""
    for file in repo.files:
        if file.suffix == ".bzl" and file.parts[0] != "testing":
            for number, line in enumerate(repo.text(file).splitlines(), 1):
                if "py_test(" in line.partition("#")[0]:
                    yield Finding(str(file), number, "calls py_test", "call trainer_test of //testing:defs.bzl")


def _watched(repo: Repo) -> Iterator[Finding]:
    """Top-level folders that `source_tree` in MODULE.bazel does not watch: new files there would go unnoticed."""
    module = PurePosixPath("MODULE.bazel")
    if module not in repo.files:
        return
    for node in ast.walk(ast.parse(repo.text(module))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "source_tree":
            folders = next((keyword.value for keyword in node.keywords if keyword.arg == "folders"), ast.List(elts=[]))
            watched = ast.literal_eval(folders)
            for folder in sorted({file.parts[0] for file in repo.files if len(file.parts) > 1} - set(watched)):
                message = f"source_tree does not watch {folder}/: new files there would go unnoticed"
                yield Finding(str(module), node.lineno, message, f'add "{folder}" to its folders')


def _build(repo: Repo, path: str) -> str:
    package = repo.package_of(path)
    folder = str(PurePosixPath(path).parent) if package is None else package
    return f"{folder}/BUILD.bazel".lstrip("/")
