"""Options that are passed on as they are given, from a configuration file to a library."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def refused_by_name(what: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Let an error of the library name what it was given; not every library checks, some compute with it.

    Raises:
        ValueError: in place of the error.
    """
    try:
        yield
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        given = ", ".join(f"{name}={value!r}" for name, value in options.items()) or "no options"
        raise ValueError(f"{what} with {given}: {error}") from error
