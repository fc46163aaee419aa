"""Errors of a command, for the person who called it."""

from rich.console import Console


def report_error(error: Exception) -> int:
    """Print an error to stderr as one line without a traceback, and return the exit status of a command that failed."""
    Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    return 1
