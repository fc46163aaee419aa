"""Adds entries to, and removes them from, `deps` in the text of a BUILD file.

The edits keep comments and are valid at once, if not pretty: buildifier sorts and wraps what they touch.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

from tools.lint.finding import DepEdit


def apply(text: str, edits: Iterable[DepEdit]) -> str:
    """The text of a BUILD file after the edits, which all belong to it.

    Raises:
      ValueError: no target of that name, or no such entry to remove.
    """
    for edit in edits:
        call = _call(text, edit)
        deps = next((keyword for keyword in call.keywords if keyword.arg == "deps"), None)
        text = _add(text, call, deps, edit.label) if edit.add else _remove(text, call, deps, edit)
    return text


def _call(text: str, edit: DepEdit) -> ast.Call:
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            name = next((keyword.value for keyword in statement.value.keywords if keyword.arg == "name"), None)
            if isinstance(name, ast.Constant) and name.value == edit.name:
                return statement.value
    raise ValueError(f"{edit.build_file} has no target {edit.name!r}; add {edit.label} to its deps by hand")


def _add(text: str, call: ast.Call, deps: ast.keyword | None, label: str) -> str:
    if deps is None:
        name = next(keyword.value for keyword in call.keywords if keyword.arg == "name")
        return _replace(text, _end(text, name), _end(text, name), f', deps = ["{label}"]')
    lists = list(_lists(deps.value))
    if not lists:
        start = _start(text, deps.value)
        return _replace(text, start, start, f'["{label}"] + ')
    inside = _start(text, lists[0]) + 1
    return _replace(text, inside, inside, f'"{label}", ' if lists[0].elts else f'"{label}"')


def _remove(text: str, call: ast.Call, deps: ast.keyword | None, edit: DepEdit) -> str:
    nodes = [
        node
        for node in (ast.walk(deps.value) if deps else ())
        if isinstance(node, ast.Constant) and node.value == edit.label
    ]
    if deps is None or not nodes:
        raise ValueError(f"{edit.build_file}: deps of {edit.name!r} have no entry {edit.label!r}")
    if isinstance(deps.value, ast.List) and len(deps.value.elts) == len(nodes):
        return _drop(text, _start(text, deps), _end(text, deps))
    for node in sorted(nodes, key=lambda node: (node.lineno, node.col_offset), reverse=True):
        text = _drop(text, _start(text, node), _end(text, node))
    return text


def _lists(node: ast.expr) -> Iterable[ast.List]:
    """The lists of an expression that hold on every platform: those outside `select`."""
    if isinstance(node, ast.List):
        yield node
    elif isinstance(node, ast.BinOp):
        yield from _lists(node.left)
        yield from _lists(node.right)


def _drop(text: str, start: int, end: int) -> str:
    """Removes an element with its comma; with its line, and a comment there, when it stands alone on it."""
    while text[end : end + 1] in (" ", ","):
        end += 1
        if text[end - 1] == ",":
            break
    line = text.rfind("\n", 0, start) + 1
    stop = text.find("\n", end)
    rest = text[end:stop].strip() if stop >= 0 else "x"
    if not text[line:start].strip() and (not rest or rest.startswith("#")):
        return text[:line] + text[stop + 1 :]
    if text[end : end + 1] == " ":
        end += 1
    return text[:start] + text[end:]


def _replace(text: str, start: int, end: int, new: str) -> str:
    return text[:start] + new + text[end:]


def _start(text: str, node: ast.expr | ast.keyword) -> int:
    return _offset(text, node.lineno, node.col_offset)


def _end(text: str, node: ast.expr | ast.keyword) -> int:
    assert node.end_lineno is not None and node.end_col_offset is not None
    return _offset(text, node.end_lineno, node.end_col_offset)


def _offset(text: str, line: int, column: int) -> int:
    """The index of a place that the parser gives as line from 1 and column in bytes."""
    lines = text.split("\n")
    return sum(len(before) + 1 for before in lines[: line - 1]) + len(lines[line - 1].encode()[:column].decode())
