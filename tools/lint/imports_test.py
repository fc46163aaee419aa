import textwrap
from pathlib import PurePosixPath

from tools.lint.imports import imports_of


def found(text: str, path: str = "trainers/data/x.py") -> list[tuple[int, str, str]]:
    return [(i.line, i.module, i.name) for i in imports_of(PurePosixPath(path), textwrap.dedent(text))]


def test_imports_anywhere_count() -> None:
    text = """\
        import os.path as p, yaml
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from trainers.data.packing import pack, Packing as P
        def f():
            import torch.nn
        """
    assert found(text) == [
        (1, "os.path", ""),
        (1, "yaml", ""),
        (2, "typing", "TYPE_CHECKING"),
        (4, "trainers.data.packing", "Packing"),
        (4, "trainers.data.packing", "pack"),
        (6, "torch.nn", ""),
    ]


def test_modules_named_in_a_call_count() -> None:
    text = """\
        triton = pytest.importorskip("triton")
        importlib.import_module("trainers.sft.loop")
        importlib.import_module(name)
        importlib.import_module(".x", "trainers")
        """
    assert found(text) == [(1, "triton", ""), (2, "trainers.sft.loop", "")]


def test_relative_imports_are_resolved() -> None:
    assert found("from .packing import pack\nfrom .. import models") == [
        (1, "trainers.data.packing", "pack"),
        (2, "trainers", "models"),
    ]


def test_a_reason_keeps_an_import() -> None:
    text = "import neuronxcc  # keep: only the Neuron host has it\nimport torch  # keep:\n"
    assert [i.kept for i in imports_of(PurePosixPath("x.py"), text)] == [True, False]
