"""Errors of a command, for the person who called it."""

from trainers.data.literal_console import literal_console


def report_error(error: Exception) -> int:
    """Print an error to stderr as one line without a traceback, and return the exit status of a command that failed."""
    literal_console().print(f"error: {error}", style="red", soft_wrap=True)
    return 1
