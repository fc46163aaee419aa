"""Checks that every target declares what its sources import, and imports what it declares.

Transitive dependencies do not count: a target that imports a module names the target that provides it. An entry of
`deps` that nothing imports, and a library or wheel in `data`, say why on their line: `# keep: why`. So does an
import that no target can provide, such as a package that only an accelerator's host has. A wheel whose metadata is
not at hand says what it provides when that is not its own name: `# import: module`.
"""

from __future__ import annotations

import sys
from pathlib import PurePosixPath

from tools.lint.build_file import Entry, Target, normalize
from tools.lint.distributions import Distributions
from tools.lint.finding import FIX, DepEdit, Finding
from tools.lint.imports import Import
from tools.lint.repo import Repo

# What a macro adds to `deps` itself (testing/defs.bzl): may be imported, need not be declared.
IMPLICIT = {"trainer_test": frozenset({"pytest"})}


def check(repo: Repo, distributions: Distributions) -> list[Finding]:
    """Every missing dependency, superfluous dependency, and Python file in no target."""
    findings = repo.build_faults() + _orphans(repo, distributions)
    for target in repo.python_targets:
        findings += _Target(repo, distributions, target).check()
    return sorted(set(findings))


class _Target:
    def __init__(self, repo: Repo, distributions: Distributions, target: Target) -> None:
        self.repo = repo
        self.distributions = distributions
        self.target = target
        self.sources = {path for path, _ in target.source_paths()}
        self.implicit = IMPLICIT.get(target.kind, frozenset())
        self.used: set[str] = set()  # labels as written

    def check(self) -> list[Finding]:
        missing = [
            finding
            for path in sorted(self.sources)
            for imported in self.repo.imports.get(path, [])
            for finding in self.missing(path, imported)
        ]
        readable = self.sources <= self.repo.imports.keys()  # what a missing or faulty file imports is not known
        return missing + (self.superfluous() if readable else []) + self.data()

    def missing(self, path: str, imported: Import) -> list[Finding]:
        module = imported.module
        if module.partition(".")[0] in sys.stdlib_module_names:
            return []
        if self.repo.is_first_party(module):
            file = self.repo.module_file(imported)
            if file is None:
                return [] if imported.kept else [self.unknown(path, imported)]
            if file in self.sources or file.endswith("/__init__.py"):
                return []
            labels = [
                owner.label for owner in self.repo.owners.get(file, []) if owner.kind in ("py_library", "py_binary")
            ]
            if not labels:
                folder, _, name = file.rpartition("/")
                mend = f'add a py_library with srcs = ["{name}"] to {folder}/BUILD.bazel, and it to deps'
                return [Finding(path, imported.line, f"imports {file}, which no py_library provides", mend)]
            declared = [entry.value for entry in self.target.deps if self.resolve(entry) in labels]
            suggestion = labels[0]
        else:
            wheels = self.distributions.providers(module, imported.name)
            declared = [entry.value for entry in self.target.deps if self.provides(entry, module, wheels)]
            if wheels & self.implicit:
                return []  # declared as well, it is superfluous
            if not declared and not wheels:
                return [] if imported.kept else [self.unknown(path, imported)]
            suggestion = f"@pypi//{min(wheels)}" if wheels else ""
        self.used.update(declared)
        if declared or imported.kept:
            return []
        label = shorten(suggestion, self.target.package)
        place = f"{self.target.build_file}:{self.target.line}"
        return [
            Finding(
                path,
                imported.line,
                f"imports {module}, but {self.target.label} does not declare {suggestion}",
                f'add "{label}" to deps of "{self.target.name}" ({place}), or {FIX}',
                DepEdit(self.target.build_file, self.target.name, label, add=True),
            )
        ]

    def superfluous(self) -> list[Finding]:
        findings = []
        for entry in self.target.deps:
            if entry.value in self.used or entry.keep:
                continue
            what = f'deps of {self.target.label} hold "{entry.value}", which '
            if _wheel(entry.value) in self.implicit:
                what += f"{self.target.kind} adds itself"
            else:
                what += f"no source of it imports ({', '.join(sorted(self.sources)) or 'it has none'})"
            inside = self.target.line <= entry.line <= self.target.end_line
            mend = f'remove the entry ({FIX}), or say why it is needed at run time: `"{entry.value}",  # keep: why`'
            edit = DepEdit(self.target.build_file, self.target.name, entry.value, add=False) if inside else None
            findings.append(Finding(self.target.build_file, entry.line, what, mend, edit))
        return findings

    def data(self) -> list[Finding]:
        findings = []
        for entry in self.target.data:
            owner = self.repo.targets.get(self.resolve(entry))
            library = owner is not None and owner.kind == "py_library"
            wheel = _wheel(entry.value) in self.distributions.names
            if (library or wheel) and not entry.keep:
                message = f'data of {self.target.label} holds "{entry.value}", whose use no import shows'
                mend = f'move it to deps if a source imports it, or say why: `"{entry.value}",  # keep: why`'
                findings.append(Finding(self.target.build_file, entry.line, message, mend))
        return findings

    def resolve(self, entry: Entry) -> str:
        label = normalize(entry.value, self.target.package)
        target = self.repo.targets.get(label)
        while target is not None and target.kind == "alias" and target.actual:
            label = normalize(target.actual, target.package)
            target = self.repo.targets.get(label)
        return label

    def provides(self, entry: Entry, module: str, wheels: set[str]) -> bool:
        wheel = _wheel(entry.value)
        if not wheel:
            return False
        if wheel in wheels or any(module == name or module.startswith(name + ".") for name in entry.imports):
            return True
        # Its metadata is not at hand, as of the wheels of a lock that only benchmarks use: its name is all to go by.
        return module.partition(".")[0] == wheel

    def unknown(self, path: str, imported: Import) -> Finding:
        name = f"{imported.module}.{imported.name}" if imported.name else imported.module
        if self.repo.is_first_party(imported.module):
            message = f"imports {name}, but no file {imported.module.replace('.', '/')}.py is in the repo"
            mend = "mend the import; for a module that a build step generates add `# keep: why` to its line"
        else:
            message = f"imports {name}, but no wheel of the lock provides it"
            mend = (
                "add its distribution to the requirements in third_party/python and lock again; where only a host can "
                "provide it, add `# keep: why` to the line"
            )
            for entry in self.target.deps:  # wheels of which only the name is known
                if _wheel(entry.value) and _wheel(entry.value) not in self.distributions.names:
                    top = imported.module.partition(".")[0]
                    mend = f'if {entry.value} provides it, say so: `"{entry.value}",  # import: {top}`; else {mend}'
        return Finding(path, imported.line, message, mend)


def shorten(label: str, package: str) -> str:
    """The label as a BUILD file of `package` spells it: `:x` for its own, `//p` for `//p:p`."""
    if not label.startswith("//"):
        return label
    folder, _, name = label[2:].partition(":")
    if folder == package:
        return f":{name}"
    return f"//{folder}" if folder.rpartition("/")[2] == name else label


def _wheel(label: str) -> str:
    """The distribution that an external label names, such as `numpy` of `@pypi//numpy`; else ""."""
    repository, slashes, rest = label.partition("//")
    return rest.partition(":")[0] if slashes and repository.startswith("@") else ""


def _orphans(repo: Repo, distributions: Distributions) -> list[Finding]:
    return [
        Finding(
            str(path),
            0,
            "is in no target, so that Bazel neither builds nor tests it",
            _declare(repo, distributions, str(path)),
        )
        for path in repo.python_files
        if path.name != "__init__.py" and path.suffix == ".py" and str(path) not in repo.declared
    ]


def _declare(repo: Repo, distributions: Distributions, file: str) -> str:
    """How to declare a file: the lines to write, with the dependencies that its imports show."""
    path = PurePosixPath(file)
    folder = "" if str(path.parent) == "." else str(path.parent)
    build = f"{folder}/BUILD.bazel".lstrip("/")
    if path.name == "conftest.py":
        return f'add to {build}: exports_files(["conftest.py"])'  # pytest without Bazel reads it
    test = path.stem.endswith("_test")
    kind = "trainer_test" if test else "py_library"
    target = Target(f"//{folder}:{path.stem}", kind, build, 0, 0, srcs=(Entry(path.name, 0),))
    labels = {finding.edit.label for finding in _Target(repo, distributions, target).check() if finding.edit}
    for imported in repo.imports.get(file, []):  # files in no target yet: each will be a library named after itself
        other = repo.module_file(imported) if repo.is_first_party(imported.module) else None
        if other is not None and other not in repo.owners and not other.endswith("/__init__.py") and other != file:
            labels.add(shorten(f"//{PurePosixPath(other).parent}:{PurePosixPath(other).stem}", folder))

    lines = [f"{kind}(", f'    name = "{path.stem}",', f'    srcs = ["{path.name}"],']
    if test:
        lines += ['    hardware = ["cpu"],', '    tier = "unit",']
    ordered = sorted(labels, key=lambda label: (not label.startswith(":"), not label.startswith("//"), label))
    if len(ordered) == 1:
        lines += [f'    deps = ["{ordered[0]}"],']
    elif ordered:
        lines += ["    deps = [", *(f'        "{label}",' for label in ordered), "    ],"]
    exists = any(known.path == build for known in repo.build_files)
    how = f"add to {build}" if exists else f"create {build} with these lines"
    return f"{how}:\n        " + "\n        ".join([*lines, ")"])
