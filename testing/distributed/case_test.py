"""What works inside a rank that works in any test: fixtures, parameters, marks, meshes; all of this passes."""

import os
import random
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from testing.distributed.case import DistributedTest, distributed_test


@dataclass
class Settings:
    """A class of the test's own module."""

    model: torch.nn.Linear
    optimizer: torch.optim.SGD


@pytest.fixture
def settings() -> Settings:
    torch.manual_seed(5)
    model = torch.nn.Linear(3, 2)
    return Settings(model, torch.optim.SGD(model.parameters(), lr=1.0))


@pytest.fixture
def model(settings):
    return settings.model


def agree(value):
    """All ranks' values of ``value``, which must be the same."""
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    assert all(other == values[0] for other in values), values
    return value


class TestRanks(DistributedTest):
    world_size = [1, 2, 4]

    @pytest.fixture(autouse=True)
    def remember(self, request):
        self.name = request.node.name

    @pytest.mark.parametrize("scale", [1.0, 3.0])
    def test_collective(self, scale):
        x = torch.full((4,), scale * self.rank, device=self.device)
        dist.all_reduce(x)
        torch.testing.assert_close(x, torch.full_like(x, scale * sum(range(self.world_size))), rtol=0, atol=0)
        assert (self.rank, self.world_size) == (dist.get_rank(), dist.get_world_size())
        assert self.mesh is None

    def test_world_size_is_in_the_name(self):
        assert agree(self.name) == f"test_world_size_is_in_the_name[{self.world_size}ranks]"

    def test_fixtures_keep_shared_objects(self, settings, model):
        assert model is settings.model
        assert settings.optimizer.param_groups[0]["params"][0] is model.weight
        agree(model.weight.tolist())

    def test_tmp_path_is_shared(self, tmp_path):
        (tmp_path / str(self.rank)).touch()
        dist.barrier()
        assert sorted(path.name for path in tmp_path.iterdir()) == [str(rank) for rank in range(self.world_size)]


class TestMesh(DistributedTest):
    parallel_sizes = {"tp": 2, "pp": 2}

    def test_order_of_dimensions(self):
        assert self.mesh.mesh_dim_names == ("pp", "tp")
        assert self.rank == self.mesh.get_local_rank("pp") * 2 + self.mesh.get_local_rank("tp")

    def test_group_of_a_dimension(self):
        x = torch.tensor([self.rank], device=self.device)
        dist.all_reduce(x, group=self.mesh.get_group("tp"))
        assert x.item() == {0: 1, 1: 1, 2: 5, 3: 5}[self.rank]


class Inherited:
    """No test class of its own."""

    def test_inherited(self):
        assert dist.get_world_size() == self.world_size == 2

    def test_overridden(self):
        raise AssertionError


class TestInherits(Inherited, DistributedTest):
    world_size = 2

    def test_overridden(self):
        pass

    def setup_method(self):
        self.prepared = os.getpid()

    def test_setup_method_runs_in_pytest(self):
        assert agree(self.prepared) != os.getpid()


class TestInheritsRanks(TestRanks):
    world_size = 3

    def test_world_size_is_in_the_name(self):
        assert self.world_size == 3
        assert self.name == "test_world_size_is_in_the_name"


@distributed_test(4, tp=2)
def test_function(rank, world_size, device, mesh):
    assert (mesh["dp"].size(), mesh["tp"].size()) == (2, 2)
    assert (rank, world_size, device.type) == (dist.get_rank(), 4, mesh.device_type)


@distributed_test([2, 3])
def test_function_per_world_size(world_size):
    assert world_size == dist.get_world_size()


@distributed_test(2, seed=7)
def test_seed_is_the_same_everywhere():
    drawn = agree((random.random(), np.random.random(), torch.rand(1).item()))
    random.seed(7)
    np.random.seed(7)
    assert drawn == (random.random(), np.random.random(), torch.rand(1, generator=torch.manual_seed(7)).item())


@pytest.fixture
def variable(monkeypatch):
    monkeypatch.setenv("TRAINYARD_EXAMPLE", "set by a fixture")


@pytest.mark.usefixtures("variable")
@distributed_test(2)
def test_environment(rank, monkeypatch, tmp_path):
    assert os.environ["TRAINYARD_EXAMPLE"] == "set by a fixture"
    assert (os.environ["RANK"], os.environ["LOCAL_RANK"], os.environ["WORLD_SIZE"]) == (str(rank), str(rank), "2")
    monkeypatch.chdir(tmp_path)
    assert Path.cwd() == tmp_path


@pytest.mark.filterwarnings("ignore:not this one")
@distributed_test(2)
def test_warnings_are_errors():
    warnings.warn("not this one", UserWarning, stacklevel=1)
    with pytest.raises(UserWarning, match="that one"):
        warnings.warn("that one", UserWarning, stacklevel=1)


@distributed_test(2)
def test_subtests(rank, subtests):
    for i in range(3):
        with subtests.test(i=i):
            assert agree(i) == i


@distributed_test(2)
def test_threads_are_one_per_rank():
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("world_size", "sizes", "message"),
    [
        (0, {}, r"holds 0; give numbers of ranks from 1"),
        ([2, "4"], {}, r"holds '4'"),
        (4, {"tp": 3}, r"world_size is 4, and the parallel sizes .* make 3"),
        (4, {"tp": 0}, r"parallel_sizes\['tp'\] is 0"),
    ],
)
def test_wrong_declarations(world_size, sizes, message):
    with pytest.raises(ValueError, match=message):
        distributed_test(world_size, **sizes)(agree)


def test_unknown_mesh_dimension():
    with pytest.raises(ValueError, match="names 'ep'; the dimensions are pp, dp, cp, tp"):
        type("TestBad", (DistributedTest,), {"parallel_sizes": {"ep": 2}})
