import itertools
import random

import torch
from torch import nn

from trainers.checkpoint.crash_cases import kill_in_a_save
from trainers.checkpoint.full_state import FullStateSaver, load_full_state
from trainers.checkpoint.store import CheckpointStore


def wide_model():
    return nn.Sequential(*(nn.Linear(64, 64) for _ in range(20)))


def fill(model, optimizer, step):
    for number, parameter in enumerate(model.parameters()):
        parameter.data.fill_(100 * step + number)
        optimizer.state[parameter]["momentum_buffer"] = torch.full_like(parameter, 1000.0 * step + number)


def test_killed_at_random_moments(tmp_path):
    """The newest is the step that was saved last, or the one under way, and holds what that step must."""
    store = CheckpointStore(tmp_path, keep_last=2)
    model = wide_model()
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
    moments = random.Random(2)
    step, inside = -1, 0

    def saves():
        torch.set_num_threads(1)
        saver = FullStateSaver(store)
        for number in itertools.count(step + 1):
            fill(model, optimizer, number)
            saver.save(number, model, optimizer, progress={"step": number})
            fill(model, optimizer, -1)  # as training would, while the thread writes
            yield saver.wait()

    for _ in range(25):
        done = kill_in_a_save(saves, moments.uniform(0, 2))
        newest = store.latest()
        assert newest.step in (step + done, step + done + 1)
        step = newest.step
        inside += bool(store.scan()[1])
        loaded = wide_model()
        loaded_optimizer = torch.optim.SGD(loaded.parameters(), momentum=0.9)
        assert load_full_state(newest, loaded, loaded_optimizer) == {"step": step}
        fill(model, optimizer, step)
        for actual, expected in zip(loaded.parameters(), model.parameters(), strict=True):
            assert torch.equal(actual, expected)
            momenta = loaded_optimizer.state[actual], optimizer.state[expected]
            assert torch.equal(*(state["momentum_buffer"] for state in momenta))
    assert inside > 12, "most kills fall into a save"
