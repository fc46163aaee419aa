"""What callbacks hear of a training, and in which order."""

import signal

import pytest

from testing.distributed.case import DistributedTest
from trainers.sft.callbacks import Callback
from trainers.sft.loop import train
from trainers.sft.sft_cases import Listener, config_of, worker_of_test, write_case


class Events(Callback):
    def __init__(self):
        self.heard = []

    def on_step(self, record):
        self.heard.append(("step", record["step"]))

    def on_validation(self, record):
        self.heard.append(("validation", record["step"]))

    def on_save(self, kind, step, path):
        self.heard.append((kind, step))

    def on_exception(self, error):
        self.heard.append(("exception", str(error)))


class FailsAtStep2(Callback):
    def on_step(self, record):
        if record["step"] == 2:
            raise RuntimeError("no more")


class TestEvents(DistributedTest):
    world_size = 1

    def test_steps_are_told_before_what_follows_them(self, tmp_path):
        """A record that came after its state would be lost if the process died between the two."""
        write_case(tmp_path)
        events = Events()
        changes = {
            "validation_fraction": 0.2,
            "validate_every_steps": 4,
            "save_every_steps": 3,
            "save_every_epoch": True,
        }
        train(config_of(tmp_path, steps=5, **changes), worker_of_test(self.device), [events])
        assert events.heard == [
            *(("step", 1), ("step", 2), ("model", 2), ("state", 2)),  # (epochs end after two steps)
            *(("step", 3), ("state", 3)),
            *(("step", 4), ("validation", 4), ("model", 4), ("state", 4)),
            *(("step", 5), ("state", 5), ("model", 5)),
        ]

    def test_an_exception_ends_it(self, tmp_path):
        write_case(tmp_path)
        events, listener = Events(), Listener()
        handlers = signal.getsignal(signal.SIGTERM)
        with pytest.raises(RuntimeError, match="no more"):
            train(config_of(tmp_path), worker_of_test(self.device), [FailsAtStep2(), events, listener])
        assert events.heard == [("step", 1), ("exception", "no more")]
        assert listener.ended is None
        assert signal.getsignal(signal.SIGTERM) == handlers
