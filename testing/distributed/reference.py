"""Names of functions and modules that mean the same in another process, and objects packed for the way there."""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

# A function that stands in for another one (a test wrapped by its launcher) keeps the other one here.
RANK_FUNCTION = "__rank_function__"


@dataclass(frozen=True)
class ModuleRef:
    """A module by name, and by file in case the name is not enough to import it.

    Attributes:
        name: as in ``sys.modules``.
        file: its source, or None.
        changed: when the file was last written, which tells versions of the module apart.
    """

    name: str
    file: str | None
    changed: int

    @classmethod
    def of(cls, name: str) -> ModuleRef:
        """Return the reference of a module that is loaded here."""
        file = getattr(sys.modules.get(name), "__file__", None)
        return cls(name, file, os.stat(file).st_mtime_ns if file and os.path.exists(file) else 0)

    def load(self) -> ModuleType:
        """Import the module, or return it if it is loaded."""
        if self.name in sys.modules:
            return sys.modules[self.name]
        pytest.register_assert_rewrite(self.name)
        spec = next(_specs(self.name, None), None)
        if self.file is None or (spec is not None and spec.origin == self.file):
            return importlib.import_module(self.name)
        # Pytest gives files outside of sys.path a name. Its import hook comes first, which explains asserts.
        spec = next(_specs(self.name, [str(Path(self.file).parent)]), None)
        if spec is None or spec.loader is None or spec.origin != self.file:
            raise ImportError(f"{self.name} ({self.file}) cannot be imported by a rank")
        module = sys.modules[self.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def _specs(name: str, folders: list[str] | None) -> Iterator[ModuleSpec]:
    """Yield what the import hooks find under ``name``; in ``folders``, or where the parent package is."""
    if folders is None and "." in name:
        try:
            folders = list(importlib.import_module(name.rpartition(".")[0]).__path__)
        except (ImportError, AttributeError):
            return
    for finder in sys.meta_path:
        spec = finder.find_spec(name, folders)
        if spec is not None:
            yield spec


@dataclass(frozen=True)
class Ref:
    """A function, or a class, by the module that holds it and its qualified name there."""

    module: ModuleRef
    qualname: str

    @classmethod
    def of(cls, what: Callable[..., Any]) -> Ref:
        """Return the reference of a function or class.

        Raises:
            ValueError: no other process could find it by name.
        """
        qualname = getattr(what, "__qualname__", "")
        module = getattr(what, "__module__", None)
        if not qualname or "<" in qualname or module in (None, "__main__"):
            raise ValueError(
                f"ranks import what they run, and {what!r} cannot be imported: "
                "define it at the top level of a module (no lambda, partial or nested function)"
            )
        return cls(ModuleRef.of(module), qualname)

    def load(self) -> Any:
        """Return the function; of a wrapped test the function inside."""
        found: Any = self.module.load()
        for name in self.qualname.split("."):
            found = getattr(found, name)
        return getattr(found, RANK_FUNCTION, found)


class _Packer(pickle.Pickler):
    """Pickles, with tensors of any accelerator brought to the CPU: no process opens another one's device."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, torch.Tensor) and obj.device.type not in ("cpu", "meta"):
            return obj.detach().cpu().__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        return NotImplemented


def pack(value: Any) -> bytes:
    """Return ``value`` as bytes for ``pickle.loads``; raises whatever pickling raises."""
    buffer = io.BytesIO()
    _Packer(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def pack_named(values: Mapping[str, Any]) -> bytes:
    """Return named values as bytes for ``unpack_named``; objects that several of them share stay shared.

    Raises:
        ValueError: a value cannot be pickled; its name and the reason are told.
    """
    buffer = io.BytesIO()
    packer = _Packer(buffer, pickle.HIGHEST_PROTOCOL)
    for name, value in values.items():
        packer.dump(name)
        try:
            packer.dump(value)
        except Exception as error:
            raise ValueError(
                f"{name} cannot be sent to the ranks: {value!r} cannot be pickled ({type(error).__name__}: {error})"
            ) from None
    return buffer.getvalue()


def unpack_named(data: bytes) -> dict[str, Any]:
    """Return what ``pack_named`` packed.

    Raises:
        ValueError: a value cannot be rebuilt; its name and the reason are told.
    """
    buffer = io.BytesIO(data)
    unpacker = pickle.Unpickler(buffer)
    values = {}
    while buffer.tell() < len(data):
        name = unpacker.load()
        try:
            values[name] = unpacker.load()
        except Exception as error:
            raise ValueError(f"{name} cannot be rebuilt on a rank ({type(error).__name__}: {error})") from error
    return values
