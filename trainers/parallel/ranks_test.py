import pytest
import torch.distributed as dist

from testing.distributed.case import DistributedTest
from trainers.parallel.ranks import RankError, Ranks


def fail(message):
    raise KeyError(message)


class TestRanks(DistributedTest):
    world_size = [2, 4]
    timeout = 30

    def test_results(self):
        for ranks in (Ranks(), Ranks.of_their_own()):
            assert (ranks.rank, ranks.world_size) == (self.rank, self.world_size)
            assert ranks.together(lambda: 10 * self.rank) == [10 * rank for rank in range(self.world_size)]
            assert ranks.first(lambda: f"from {self.rank}") == "from 0"
            assert ranks.each(lambda: f"from {self.rank}") == f"from {self.rank}"

    def test_a_group_of_their_own(self):
        assert dist.get_backend(Ranks.of_their_own().group) == "gloo"
        assert Ranks.of_their_own().group is not Ranks().group

    def test_errors_are_raised_everywhere_and_go_no_further(self):
        ranks = Ranks.of_their_own()
        for work, message in (
            (lambda: fail("x") if self.rank == 1 else None, "rank 1: KeyError: 'x'"),
            (lambda: fail("x"), f"ranks {', '.join(map(str, range(self.world_size)))}: KeyError: 'x'"),
            (lambda: ranks.first(lambda: fail("y")), "rank 0: KeyError: 'y'"),
        ):
            with pytest.raises(RankError) as caught:
                ranks.together(work)
            assert str(caught.value).endswith(message)
        assert ranks.together(lambda: 1) == [1] * self.world_size


def test_alone():
    ranks = Ranks.of_their_own()
    assert (ranks.rank, ranks.world_size, ranks.group) == (0, 1, None)
    assert ranks.together(lambda: "x") == ["x"] and ranks.first(lambda: "x") == "x"
    with pytest.raises(RankError, match="^rank 0: KeyError: 'x'$") as caught:
        ranks.first(lambda: fail("x"))
    assert isinstance(caught.value.__cause__, KeyError)
