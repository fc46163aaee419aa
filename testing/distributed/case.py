"""Write a test once, run it on every rank: ``DistributedTest`` for classes, ``distributed_test`` for functions."""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from testing.distributed.launch import launch_procs

MESH_ORDER = ("pp", "dp", "cp", "tp")
FROM_RANK = ("rank", "world_size", "device", "mesh")


def _mesh(sizes: Mapping[str, int] | None, device: torch.device) -> DeviceMesh | None:
    if sizes is None:
        return None
    names = tuple(name for name in MESH_ORDER if name in sizes)
    return init_device_mesh(device.type, tuple(sizes[n] for n in names), mesh_dim_names=names)


def _run_on_rank(fn: Callable[..., Any], instance: Any, sizes: Mapping[str, int] | None, kwargs: dict[str, Any]) -> None:
    device = torch.device("cpu")
    given = {"rank": dist.get_rank(), "world_size": dist.get_world_size(), "device": device, "mesh": _mesh(sizes, device)}
    if instance is not None:
        for name, value in given.items():
            setattr(instance, name, value)
    wanted = inspect.signature(fn).parameters
    kwargs = kwargs | {name: value for name, value in given.items() if name in wanted}
    fn(*([] if instance is None else [instance]), **kwargs)


def _world_size_param(size: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pytest.PytestUnknownMarkWarning)
        return pytest.param(size, marks=pytest.mark.world_size(size), id=f"{size}ranks")


def _on_ranks(
    fn: Callable[..., Any],
    world_sizes: Sequence[int],
    sizes: Mapping[str, int] | None,
    timeout: float,
    is_method: bool,
) -> Callable[..., Any]:
    @functools.wraps(fn)
    def run(*args: Any, _world_size: int, **kwargs: Any) -> None:
        instance = args[0] if is_method else None
        launch_procs(_run_on_rank, _world_size, fn, instance, sizes, kwargs, timeout=timeout)

    signature = inspect.signature(fn)
    kept = [p for name, p in signature.parameters.items() if name not in FROM_RANK]
    kept.append(inspect.Parameter("_world_size", inspect.Parameter.KEYWORD_ONLY))
    run.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    return pytest.mark.parametrize("_world_size", [_world_size_param(n) for n in world_sizes])(run)


def _sizes(world_size: int | Sequence[int] | None, parallel: Mapping[str, int] | None) -> list[int]:
    if parallel is not None:
        return [math.prod(parallel.values())]
    if isinstance(world_size, int):
        return [world_size]
    return list(world_size or [2])


class DistributedTest:
    """Base of test classes whose tests run on every rank; fixtures are evaluated once, in pytest's process.

    Attributes ``rank``, ``world_size``, ``device`` and ``mesh`` are set on every rank.
    """

    world_size: Any = None
    parallel_sizes: Mapping[str, int] | None = None
    timeout: float = 60
    rank: int
    device: torch.device
    mesh: DeviceMesh | None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Make every test of the class run on ranks."""
        super().__init_subclass__(**kwargs)
        for name in dir(cls):
            fn = getattr(cls, name)
            if name.startswith("test") and inspect.isfunction(fn):
                plain = inspect.unwrap(fn)
                sizes = _sizes(cls.world_size, cls.parallel_sizes)
                setattr(cls, name, _on_ranks(plain, sizes, cls.parallel_sizes, cls.timeout, is_method=True))


def distributed_test(
    world_size: int | Sequence[int] = 2, *, tp: int = 1, pp: int = 1, timeout: float = 60
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Run the decorated test function on every rank; arguments ``rank``, ``device``, ``mesh`` are filled in there."""

    def decorate(fn: Callable[..., Any]) -> Callable[..., Any]:
        parallel = None
        if tp * pp > 1:
            assert isinstance(world_size, int)
            parallel = {"pp": pp, "dp": world_size // (tp * pp), "tp": tp}
        return _on_ranks(fn, _sizes(world_size, parallel), parallel, timeout, is_method=False)

    return decorate
