"""The device mesh: which rank sits at which pipeline, data, context and tensor coordinate.

A mesh is built once, when a program starts, and passed to whatever needs it; nothing here is global. Tensor parallel
neighbours, which talk most, get neighbouring ranks:

    rank = ((pp * DP + dp) * CP + cp) * TP + tp

which without context parallelism (CP = 1) is pp * (DP * TP) + dp * TP + tp. Capital letters are sizes.
"""

from dataclasses import astuple, dataclass
from typing import NamedTuple

import torch.distributed as dist
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

DIM_NAMES = ("pp", "dp", "cp", "tp")
"""Names of the mesh dimensions, outermost first."""


class Coordinate(NamedTuple):
    """Where one rank sits in the mesh."""

    pp: int = 0
    dp: int = 0
    cp: int = 0
    tp: int = 0


@dataclass(frozen=True)
class ParallelSizes:
    """How many ranks each kind of parallelism spans.

    Args:
        pp: pipeline stages.
        dp: data parallel replicas.
        cp: ranks that share a sequence (context parallel).
        tp: ranks that share every layer (tensor parallel).

    Raises:
        ValueError: a size is not a positive integer.
    """

    pp: int = 1
    dp: int = 1
    cp: int = 1
    tp: int = 1

    def __post_init__(self) -> None:
        """Reject sizes that are not positive integers."""
        for name, size in zip(DIM_NAMES, astuple(self), strict=True):
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"mesh size {name}={size!r} must be a positive integer")

    @property
    def world_size(self) -> int:
        """Number of ranks in the mesh."""
        return self.pp * self.dp * self.cp * self.tp

    def rank_of(self, coordinate: Coordinate) -> int:
        """Global rank at ``coordinate``.

        Raises:
            ValueError: the coordinate lies outside the mesh.
        """
        rank = 0
        for name, size, position in zip(DIM_NAMES, astuple(self), coordinate, strict=True):
            if not 0 <= position < size:
                raise ValueError(f"coordinate {name}={position} lies outside the mesh: {name} has size {size}")
            rank = rank * size + position
        return rank

    def coordinate_of(self, rank: int) -> Coordinate:
        """Coordinate of global ``rank``: the inverse of :meth:`rank_of`.

        Raises:
            ValueError: no such rank.
        """
        if not 0 <= rank < self.world_size:
            raise ValueError(f"rank {rank} lies outside the mesh of {self.world_size} ranks ({self})")
        positions = []
        for size in reversed(astuple(self)):
            rank, position = divmod(rank, size)
            positions.append(position)
        return Coordinate(*reversed(positions))

    @property
    def logging_rank(self) -> int:
        """The one rank that reports: it is in the last pipeline stage, so it has the loss, and first otherwise."""
        return self.rank_of(Coordinate(pp=self.pp - 1))


def build_mesh(device_type: str, sizes: ParallelSizes) -> DeviceMesh:
    """Lay the initialised default process group out as a mesh; collective: every rank calls it.

    Args:
        device_type: ``torch.device.type`` on which the ranks compute, such as ``"cpu"`` or ``"cuda"``.
        sizes: the product must be the world size.

    Returns:
        A mesh with the dimensions :data:`DIM_NAMES`; ``mesh.get_group("tp")`` is this rank's tensor parallel group.

    Raises:
        ValueError: the sizes do not multiply to the world size.
    """
    world_size = dist.get_world_size()
    if sizes.world_size != world_size:
        raise ValueError(
            f"mesh sizes pp={sizes.pp} * dp={sizes.dp} * cp={sizes.cp} * tp={sizes.tp} = {sizes.world_size}, but the "
            f"world size is {world_size}: start {sizes.world_size} ranks or change the sizes"
        )
    return init_device_mesh(device_type, astuple(sizes), mesh_dim_names=DIM_NAMES)


def is_logging_rank(mesh: DeviceMesh) -> bool:
    """Whether this rank is the one that reports: first of every dimension, but last of the pipeline.

    A dimension that ``mesh`` does not have counts as one of size 1.
    """
    names = mesh.mesh_dim_names or ()
    return all(mesh.get_local_rank(name) == (mesh.size(names.index(name)) - 1 if name == "pp" else 0) for name in names)


def tensor_parallel_group(mesh: DeviceMesh) -> ProcessGroup:
    """The ranks that share every layer with this one.

    Raises:
        ValueError: ``mesh`` has no dimension ``tp``.
    """
    if "tp" not in (mesh.mesh_dim_names or ()):
        raise ValueError(
            f"mesh has the dimensions {mesh.mesh_dim_names}, but tensor parallel layers need one named 'tp'"
        )
    return mesh.get_group("tp")
