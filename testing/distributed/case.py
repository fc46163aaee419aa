"""Write a test once, run it on every rank: ``DistributedTest`` for classes, ``distributed_test`` for functions.

Fixtures, parameters and marks are pytest's own: pytest's process sets the test up, sends the fixtures' values to the
ranks, and reports what comes back. See docs/distributed_testing.md.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh

from testing.distributed.call import ATTRIBUTE, FIXTURE, OF_RANK, OF_RANK_FIXTURES, TestCall
from testing.distributed.context import check_mesh
from testing.distributed.launch import DEFAULT_SEED, DEFAULT_TIMEOUT, run_call
from testing.distributed.reference import RANK_FUNCTION, Ref, pack_named
from testing.distributed.verdict import judge, replay_subtests

_WORLD_SIZE = "_world_size"


@dataclass(frozen=True)
class _Plan:
    """On which ranks a test runs, and how."""

    world_sizes: Sequence[int]
    mesh_sizes: Mapping[str, int] | None
    timeout: float
    seed: int


class DistributedTest:
    """Base of test classes whose tests run on every rank, in a fresh process and a fresh process group each.

    Attributes:
        world_size: number of ranks, or several: then each test runs once per number. May be left out if
            ``parallel_sizes`` says it.
        parallel_sizes: sizes of the mesh dimensions ``pp``, ``dp``, ``cp``, ``tp``; their product is the world size.
        timeout: seconds for the ranks of one test, up to and including the report if they hang.
        seed: of Python's, numpy's and torch's generators, the same on every rank.
        rank: on a rank, its number from 0.
        device: on a rank, where it computes.
        mesh: on a rank, the mesh that ``parallel_sizes`` describes, or None.
    """

    world_size: Any = None  # int | Sequence[int]; on a rank an int
    parallel_sizes: ClassVar[Mapping[str, int] | None] = None
    timeout: ClassVar[float] = DEFAULT_TIMEOUT
    seed: ClassVar[int] = DEFAULT_SEED
    rank: int
    device: torch.device
    mesh: DeviceMesh | None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Make every test of the class, inherited ones included, run on ranks."""
        super().__init_subclass__(**kwargs)
        plan = _plan(cls.__qualname__, cls.world_size, cls.parallel_sizes, cls.timeout, cls.seed)
        for name in dir(cls):
            fn = inspect.getattr_static(cls, name)
            if name.startswith("test") and inspect.isfunction(fn):
                setattr(cls, name, _on_ranks(getattr(fn, RANK_FUNCTION, fn), plan, is_method=True))


def distributed_test(
    world_size: int | Sequence[int] | None = None,
    *,
    tp: int | None = None,
    pp: int | None = None,
    cp: int | None = None,
    dp: int | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    seed: int = DEFAULT_SEED,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a test function run on every rank.

    If it has parameters ``rank``, ``world_size``, ``device`` or ``mesh``, each rank fills them in.

    Args:
        world_size: number of ranks, or several: then the test runs once per number.
        tp: ranks per tensor-parallel group; with any of the four sizes given there is a mesh.
        pp: pipeline stages.
        cp: ranks that share a sequence.
        dp: data-parallel replicas; what is left of the world size if it is left out and others are given.
        timeout: seconds for the ranks, up to and including the report if they hang.
        seed: of Python's, numpy's and torch's generators, the same on every rank.
    """

    def decorate(fn: Callable[..., None]) -> Callable[..., None]:
        sizes = {name: size for name, size in {"pp": pp, "dp": dp, "cp": cp, "tp": tp}.items() if size is not None}
        if sizes and all(sizes.values()) and dp is None and isinstance(world_size, int):
            sizes["dp"] = max(1, world_size // math.prod(sizes.values()))
        return _on_ranks(fn, _plan(fn.__qualname__, world_size, sizes or None, timeout, seed), is_method=False)

    return decorate


def _plan(test: str, world_size: Any, sizes: Mapping[str, int] | None, timeout: float, seed: int) -> _Plan:
    """Check what a test declares; ``ValueError`` names the test and the value."""
    if sizes is not None:
        check_mesh(sizes)
        product = math.prod(sizes.values())
        if world_size not in (None, product):
            raise ValueError(f"{test}: world_size is {world_size}, and the parallel sizes {dict(sizes)} make {product}")
        world_size = product
    world_sizes = [world_size] if isinstance(world_size, int) else list(world_size or [])
    wrong = [size for size in world_sizes if not isinstance(size, int) or size < 1]
    if wrong:
        raise ValueError(f"{test}: world_size holds {wrong[0]!r}; give numbers of ranks from 1 on")
    return _Plan(world_sizes, sizes, timeout, seed)


def _on_ranks(fn: Callable[..., None], plan: _Plan, *, is_method: bool) -> Callable[..., None]:
    """Return a test that pytest sets up like ``fn`` and that runs ``fn`` on ranks."""

    @functools.wraps(fn)
    def run(*args: Any, **fixtures: Any) -> None:
        if not plan.world_sizes:
            raise ValueError(f"{fn.__qualname__}: say on how many ranks it runs (world_size or parallel_sizes)")
        world_size = fixtures.pop(_WORLD_SIZE, plan.world_sizes[0])
        instance = args[0] if is_method else None
        owner = Ref.of(type(instance)) if is_method else None
        call = TestCall(Ref.of(fn), owner, _pack(fn, instance, fixtures), plan.mesh_sizes)
        states = run_call(call, world_size, timeout=plan.timeout, seed=plan.seed)
        if "subtests" in fixtures:
            replay_subtests(states, fixtures["subtests"])
        judge(states)

    setattr(run, RANK_FUNCTION, fn)
    signature = inspect.signature(fn)
    parameters = [p for name, p in signature.parameters.items() if name not in OF_RANK]
    marked: Any = run
    if len(plan.world_sizes) == 1:
        marked = pytest.mark.world_size(plan.world_sizes[0])(run)
    elif plan.world_sizes:
        parameters.append(inspect.Parameter(_WORLD_SIZE, inspect.Parameter.KEYWORD_ONLY))
        values = [pytest.param(n, marks=pytest.mark.world_size(n), id=f"{n}ranks") for n in plan.world_sizes]
        marked = pytest.mark.parametrize(_WORLD_SIZE, values)(run)
    marked.__signature__ = signature.replace(parameters=parameters)
    return marked  # type: ignore[no-any-return]


def _pack(fn: Callable[..., None], instance: Any, fixtures: Mapping[str, Any]) -> bytes:
    __tracebackhide__ = True
    attributes = vars(instance) if instance is not None else {}
    values = {f"{FIXTURE} {name}": value for name, value in fixtures.items() if name not in OF_RANK_FIXTURES}
    values |= {f"{ATTRIBUTE} {name}": value for name, value in attributes.items()}
    try:
        return pack_named(values)
    except ValueError as error:
        raise ValueError(
            f"{fn.__qualname__}: {error}. Make it inside the test; "
            f"of pytest's own fixtures {' and '.join(OF_RANK_FIXTURES)} work on ranks"
        ) from None
