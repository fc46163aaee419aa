"""Names in error messages, of which there may be thousands."""

from collections.abc import Iterable

_SHOWN = 5


def listing(names: Iterable[str]) -> str:
    """Return names for an error message: the first few, and how many more there are."""
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
