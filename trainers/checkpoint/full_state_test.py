import random
import resource
import threading
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from testing.distributed.case import DistributedTest
from testing.distributed.launch import launch_procs
from trainers.checkpoint.full_state import FullStateSaver, load_full_state
from trainers.checkpoint.store import CheckpointStore
from trainers.checkpoint.training_case import Training, assert_same
from trainers.parallel.ranks import RankError, Ranks

STEPS = 4
CPU = torch.device("cpu")


class TestResume(DistributedTest):
    world_size = [1, 2, 4]
    timeout = 50

    @pytest.mark.parametrize("wrapper", ["fsdp", "ddp"])
    def test_from_every_step_bit_by_bit(self, wrapper, tmp_path):
        """Saved in the background while the training goes on; the first before any step was taken."""
        store = CheckpointStore(tmp_path, Ranks.of_their_own())
        training = Training.start(wrapper, 1, self.device)
        with FullStateSaver(store) as saver:
            for step in range(STEPS):
                saver.save(
                    step, training.model, training.optimizer, training.scheduler, {"samples": 4 * step, "at": [step]}
                )
                training.step()
        expected = training.state(), training.draws()
        checkpoints, passed_over = store.scan()
        assert [each.step for each in checkpoints] == list(range(STEPS)) and not passed_over
        for checkpoint in checkpoints:
            resumed = Training.start(wrapper, 2, self.device)
            resumed.step()  # state of its own, which must go
            progress = load_full_state(checkpoint, resumed.model, resumed.optimizer, resumed.scheduler, store.ranks)
            assert progress == {"samples": 4 * checkpoint.step, "at": [checkpoint.step]}
            for _ in range(checkpoint.step, STEPS):
                resumed.step()
            assert_same(resumed.state(), expected[0])
            assert resumed.draws() == expected[1]

    def test_a_disk_that_is_full_on_one_rank(self, tmp_path):
        """The error is raised on all ranks at the next call, the checkpoint before stays, and saving goes on."""
        store = CheckpointStore(tmp_path, Ranks.of_their_own())
        training = Training.start("fsdp", 1, self.device)
        last = self.world_size - 1
        with FullStateSaver(store) as saver:
            saver.save(1, training.model, training.optimizer)
            first = saver.wait()
            with files_limited_to(2000 if self.rank == last else None):
                saver.save(2, training.model, training.optimizer)
                with pytest.raises(RankError, match=rf"rank {last}: .*(File too large|unexpected pos)"):
                    saver.save(3, training.model, training.optimizer)
            assert store.scan() == ([first], [])
            saver.save(4, training.model, training.optimizer)
            assert saver.wait().step == 4

    def test_a_file_that_one_rank_cannot_read(self, tmp_path):
        """The error is raised on all ranks: one alone would wait for the others for ever."""
        store = CheckpointStore(tmp_path, Ranks.of_their_own())
        training = Training.start("fsdp", 1, self.device)
        last = self.world_size - 1
        with FullStateSaver(store) as saver:
            saver.save(1, training.model, training.optimizer)
            saved = saver.wait()
        for name, culprits in (
            (f"rng-{last}.pt", f"rank {last}"),
            (".metadata", "ranks? 0"),
            ("shared.pt", "ranks? 0"),
        ):
            store.ranks.first((saved.path / name).unlink)
            with pytest.raises(RankError, match=f"^{culprits}.*: FileNotFoundError: .*{name}"):
                load_full_state(saved, training.model, training.optimizer, ranks=store.ranks)


@contextmanager
def files_limited_to(size):
    """The kernel's own refusal to write on, as with a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def save_job(folder, wrapper):
    training = Training.start(wrapper, 1, CPU)
    training.step()
    training.step()
    with FullStateSaver(CheckpointStore(folder, Ranks.of_their_own())) as saver:
        saver.save(2, training.model, training.optimizer, training.scheduler, {"samples": 8})
    return training.state(full=True)


def load_job(folder, wrapper):
    """Load on other ranks, whose generators stay as they were seeded, and save from there."""
    store = CheckpointStore(folder, Ranks.of_their_own())
    training = Training.start(wrapper, 5, CPU)
    load_full_state(store.latest(), training.model, training.optimizer, training.scheduler, store.ranks)
    assert training.draws() == Training.start(wrapper, 5, CPU).draws()
    with FullStateSaver(store) as saver:
        saver.save(2, training.model, training.optimizer, training.scheduler, {"samples": 8})
    return training.state(full=True)


def test_world_size_and_wrapper_may_change(tmp_path):
    (expected, *_) = launch_procs(save_job, 4, tmp_path, "fsdp", device="cpu")
    for world_size, wrapper in ((2, "fsdp"), (1, "plain"), (3, "ddp"), (4, "fsdp")):
        for state in launch_procs(load_job, world_size, tmp_path, wrapper, device="cpu"):
            assert_same(state, expected)


class Slow(CheckpointStore):
    """Begins to write when it is told to."""

    def __init__(self, folder):
        super().__init__(folder)
        self.go = threading.Event()

    def save(self, step, write, metadata=None):
        self.go.wait()
        return super().save(step, write, metadata)


def test_later_changes_are_not_saved(tmp_path):
    store = Slow(tmp_path)
    training = Training.start("plain", 1, CPU)
    training.step()
    progress = {"seen": [1]}
    with FullStateSaver(store) as saver:
        saver.save(1, training.model, training.optimizer, training.scheduler, progress)
        expected = training.state()
        progress["seen"].append(2)
        training.step()
        store.go.set()
    loaded = Training.start("plain", 2, CPU)
    assert load_full_state(store.latest(), loaded.model, loaded.optimizer, loaded.scheduler) == {"seen": [1]}
    assert_same(loaded.state(), expected)


def test_an_error_in_the_background_surfaces(tmp_path):
    (tmp_path / "file").write_text("")
    model = nn.Linear(2, 2)
    saver = FullStateSaver(CheckpointStore(tmp_path / "file" / "checkpoints"))
    for call in (lambda: saver.save(2, model), saver.wait, saver.close):
        saver.save(1, model)
        with pytest.raises(RankError, match="NotADirectoryError.*file/checkpoints"):
            call()
        if call != saver.close:
            assert saver.wait() is None, "an error is raised once"


class Scaled(nn.Module):
    def get_extra_state(self):
        return {"scale": 1}


def test_what_cannot_be_loaded_is_not_saved(tmp_path):
    with FullStateSaver(CheckpointStore(tmp_path)) as saver:
        saver.save(1, nn.Linear(2, 2), progress={"lock": random.Random()})
        with pytest.raises(RankError, match=r"ValueError: shared.pt would hold values .* progress"):
            saver.wait()
        with pytest.raises(ValueError, match="not in the model"):
            saver.save(1, nn.Linear(2, 2), torch.optim.SGD(nn.Linear(2, 2).parameters()))
        with pytest.raises(ValueError, match="0._extra_state in the model's state is a dict"):
            saver.save(1, nn.Sequential(Scaled()))
    assert CheckpointStore(tmp_path).scan() == ([], [])


def linear_model(inputs=3, bias=True, dtype=torch.float32):
    return nn.Sequential(nn.Linear(inputs, 4, bias=bias, dtype=dtype))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (linear_model(inputs=5), r"shapes differ: 0.weight \(4, 3\), in the model \(4, 5\)"),
        (linear_model(bias=False), "the model lacks 0.bias"),
        (nn.Sequential(*linear_model(), nn.Linear(4, 4)), "it lacks 1.bias, 1.weight"),
        (linear_model(dtype=torch.bfloat16), "dtypes differ: 0.bias torch.float32, in the model torch.bfloat16"),
    ],
)
def test_another_model_is_refused_by_name(tmp_path, model, message):
    store = CheckpointStore(tmp_path)
    with FullStateSaver(store) as saver:
        saver.save(1, linear_model())
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(ValueError, match=message):
        load_full_state(store.latest(), model)
    assert all(map(torch.equal, before, model.parameters()))


def test_another_optimizer_is_refused(tmp_path):
    model, store = linear_model(), CheckpointStore(tmp_path)
    with FullStateSaver(store) as saver:
        saver.save(1, model, torch.optim.SGD(model.parameters()))
        saver.save(2, model)
    with_it, without_it = store.scan()[0]
    for optimizer, message in (
        (torch.optim.SGD([{"params": [each]} for each in model.parameters()]), "it has 2 and the checkpoint 1"),
        (torch.optim.SGD([model[0].weight]), "group 0 does not hold the same, 0.bias"),
        (torch.optim.SGD([model[0].bias, model[0].weight]), "group 0 has another order"),
    ):
        with pytest.raises(ValueError, match=message):
            load_full_state(with_it, model, optimizer)
    with pytest.raises(ValueError, match="was saved without optimizer"):
        load_full_state(without_it, model, torch.optim.SGD(model.parameters()))
