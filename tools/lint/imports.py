"""Finds what a Python file imports."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

_KEEP = re.compile(r"#\s*keep:\s*\S")

# Functions whose first argument, when it is a literal, is a module: what they import is imported.
_IMPORTERS = frozenset({"import_module", "__import__", "importorskip"})


@dataclass(frozen=True, order=True)
class Import:
    """One imported name.

    Attributes:
      line: where, from 1.
      module: dotted module, such as `trainers.data.packing`.
      name: for `from module import name` that name, which may itself be a module; else "".
      kept: the line says `# keep: why`, that is, no target provides this module.
    """

    line: int
    module: str
    name: str = ""
    kept: bool = False


def imports_of(path: PurePosixPath, text: str) -> list[Import]:
    """Every import of the file, also those in functions and below `if TYPE_CHECKING:`.

    Raises:
      SyntaxError: the text is not Python.
    """
    lines = text.splitlines()
    found: set[Import] = set()

    def add(node: ast.stmt | ast.expr, module: str, name: str = "") -> None:
        found.add(Import(node.lineno, module, name, bool(_KEEP.search(lines[node.lineno - 1]))))

    for node in ast.walk(ast.parse(text, filename=str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                add(node, alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                parts = path.parent.parts[: len(path.parent.parts) - (node.level - 1)]
                module = ".".join([*parts, *([module] if module else [])])
            for alias in node.names:
                add(node, module, alias.name)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func
            called = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
            literal = node.args[0].value
            if called in _IMPORTERS and isinstance(literal, str) and not literal.startswith("."):
                add(node, literal)
    return sorted(found)
