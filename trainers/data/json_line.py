"""Parses a line of a JSONL file, and refuses what json takes and would silently lose or pass on broken."""

import json
import re
from typing import Any

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_line(line: bytes) -> Any:
    """Return the value of a line.

    Raises:
        ValueError: if it is not JSON, nested too deeply, not Unicode (half of a surrogate pair), or an object has a key
            twice.
    """
    try:
        value = json.loads(line, object_pairs_hook=_unique)
        if _SURROGATE.search(line):
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # also bytes that are not UTF-8
        raise ValueError(f"not JSON: {error}") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in an object")
    return unique
