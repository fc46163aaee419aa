"""Prints what users have named as they named it."""

from rich.console import Console


def literal_console(*, stderr: bool = True) -> Console:
    """Return a console that prints text as it is: ``[a]`` in a path is no markup, ``:a:`` no emoji."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)
