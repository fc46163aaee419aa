"""Seconds of a step, by a clock that is set by the test. On a CPU: GPUs have a clock of their own."""

from testing.distributed.case import DistributedTest
from trainers.sft import measurement
from trainers.sft.callbacks import Callback
from trainers.sft.loop import train
from trainers.sft.sft_cases import Listener, config_of, worker_of_test, write_case


class Clock(Callback):
    now = 0.0

    def tick(self):
        """Show a second more each time."""
        self.now += 1
        return self.now

    def on_validation(self, record):
        self.now += 100

    def on_save(self, kind, step, path):
        self.now += 100


class TestClock(DistributedTest):
    world_size = 1

    def test_steps_do_not_count_what_is_between_them(self, tmp_path, monkeypatch):
        """A step takes a second here; a state, a model and a validation a hundred each."""
        write_case(tmp_path)
        clock, listener = Clock(), Listener()
        monkeypatch.setattr(measurement.time, "perf_counter", clock.tick)
        config = config_of(
            tmp_path,
            epochs=3,
            save_every_steps=1,
            save_every_epoch=True,
            validation_fraction=0.2,
            validate_every_steps=2,
        )
        train(config, worker_of_test(self.device), [clock, listener])
        assert {kind for kind, _ in listener.saves} == {"state", "model"} and listener.validations
        assert [record["seconds"] for record in listener.steps] == [1.0] * 6
