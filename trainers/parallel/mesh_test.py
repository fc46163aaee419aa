"""Ranks and coordinates, without processes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.parallel.mesh import Coordinate, ParallelSizes

sizes = st.builds(ParallelSizes, *(st.integers(1, 5) for _ in range(4)))


@given(sizes)
def test_coordinates_and_ranks_are_one_to_one(of):
    coordinates = [of.coordinate_of(rank) for rank in range(of.world_size)]
    assert [of.rank_of(c) for c in coordinates] == list(range(of.world_size))
    assert len(set(coordinates)) == of.world_size == of.pp * of.dp * of.cp * of.tp


@given(sizes)
def test_rank_follows_the_formula_of_the_specification(of):
    for pp in range(of.pp):
        for dp in range(of.dp):
            for tp in range(of.tp):
                rank = ParallelSizes(of.pp, of.dp, 1, of.tp).rank_of(Coordinate(pp, dp, 0, tp))
                assert rank == pp * (of.dp * of.tp) + dp * of.tp + tp


@given(sizes)
def test_the_logging_rank_is_first_of_the_last_stage(of):
    assert of.coordinate_of(of.logging_rank) == Coordinate(pp=of.pp - 1, dp=0, cp=0, tp=0)


def test_thirty_two_ranks():
    of = ParallelSizes(pp=4, dp=4, tp=2)
    assert of.coordinate_of(0) == (0, 0, 0, 0)
    assert of.coordinate_of(1) == (0, 0, 0, 1)
    assert of.coordinate_of(2) == (0, 1, 0, 0)
    assert of.coordinate_of(8) == (1, 0, 0, 0)
    assert of.logging_rank == 24


@pytest.mark.parametrize("size", [0, -1, 1.5, "2"])
def test_a_size_that_is_not_positive_is_named(size):
    with pytest.raises(ValueError, match=f"dp={size!r}"):
        ParallelSizes(dp=size)


def test_outside_the_mesh_is_an_error():
    with pytest.raises(ValueError, match="tp=2 lies outside.*tp has size 2"):
        ParallelSizes(tp=2).rank_of(Coordinate(tp=2))
    for rank in (-1, 4):
        with pytest.raises(ValueError, match=f"rank {rank} lies outside.*4 ranks"):
            ParallelSizes(dp=2, tp=2).coordinate_of(rank)
