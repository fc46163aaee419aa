"""Paths on a command line mean the caller's folder."""

import os
from pathlib import Path


def from_callers_folder(path: Path) -> Path:
    """Make a path absolute; ``bazel run`` starts the program elsewhere and says where the caller stands."""
    return Path(os.environ.get("BUILD_WORKING_DIRECTORY", os.curdir)).absolute() / path
