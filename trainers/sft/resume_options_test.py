"""A training that goes on with other options than before: they are heeded, or refused by name."""

import pytest

from testing.distributed.case import DistributedTest
from trainers.sft import saving
from trainers.sft.loop import train
from trainers.sft.progress import Progress
from trainers.sft.saving import Saver
from trainers.sft.setup import set_up
from trainers.sft.sft_cases import Listener, config_of, worker_of_test, write_case


def rates(listener):
    return [record["learning_rate"] for record in listener.steps]


class TestOptions(DistributedTest):
    world_size = 1

    def test_learning_rates_are_those_of_the_new_schedule_from_the_first_step(self, tmp_path):
        """The first part's schedule had ended at 0."""
        write_case(tmp_path)
        worker, whole, resumed = worker_of_test(self.device), Listener(), Listener()
        train(config_of(tmp_path, steps=3), worker)
        changes = {"steps": 6, "learning_rate": 5e-2}
        train(config_of(tmp_path, **changes), worker, [resumed])
        train(config_of(tmp_path, output=tmp_path / "whole", **changes), worker, [whole])
        assert resumed.resumed_at == 3
        assert rates(resumed) == rates(whole)[3:]

    def test_a_state_without_options_is_refused_by_name(self, tmp_path, monkeypatch):
        """As the first versions saved it."""
        write_case(tmp_path)
        worker = worker_of_test(self.device)
        with monkeypatch.context() as patch:
            patch.setattr(saving, "_decided", lambda config: {})
            train(config_of(tmp_path, steps=1), worker)
        with pytest.raises(ValueError, match=r"step-0000000001 cannot go on with .*seed=0 \(was not stored\)"):
            train(config_of(tmp_path, steps=2), worker)

    def test_a_finished_training_is_left_alone(self, tmp_path):
        """The path of its model, which somebody may have noted, too."""
        write_case(tmp_path)
        worker, again = worker_of_test(self.device), Listener()
        train(config_of(tmp_path, steps=2), worker)
        train(config_of(tmp_path, steps=2), worker, [again])
        assert (again.resumed_at, again.saves, again.ended) == (2, [], "done")
        assert [path.name for path in (tmp_path / "output/models").glob("step-*")] == ["step-0000000002"]

    def test_a_model_of_steps_that_are_taken_anew_is_not_its_own(self, tmp_path):
        """As when the newest state is damaged."""
        write_case(tmp_path)
        worker, again = worker_of_test(self.device), Listener()
        train(config_of(tmp_path, steps=2, save_every_steps=1), worker)
        (tmp_path / "output/states/step-0000000002/shared.pt").unlink()
        train(config_of(tmp_path, steps=2, learning_rate=5e-2), worker, [again])
        assert (again.resumed_at, again.saves) == (1, [("state", 2), ("model", 2)])
        assert again.places == [tmp_path / f"output/{kind}/step-0000000002.2" for kind in ("states", "models")]
        assert all(place.exists() for place in again.places)

    @pytest.mark.parametrize("optimizer", ["adamw", "muon"])
    def test_options_of_the_optimizer(self, tmp_path, optimizer):
        write_case(tmp_path)
        worker = worker_of_test(self.device)
        train(config_of(tmp_path, steps=1, optimizer=optimizer), worker)
        config = config_of(tmp_path, steps=2, optimizer=optimizer, weight_decay=0.25, optimizer_options={"eps": 1e-3})
        training = set_up(config, worker)
        expected = [{**group, "params": len(group["params"])} for group in training.optimizer.param_groups]
        saver = Saver(training)
        saver.restore(Progress())
        saver.close()
        restored = [{**group, "params": len(group["params"])} for group in training.optimizer.param_groups]
        assert restored == [{**group, "lr": 0.5 * group["initial_lr"]} for group in expected]

    def test_what_cannot_change_is_named(self, tmp_path):
        """Moments of another optimizer, another order of samples, schedules that count other batches, among them."""
        write_case(tmp_path)
        worker = worker_of_test(self.device)
        train(config_of(tmp_path, steps=1), worker)
        changes = {"optimizer": "rmsprop", "seed": 1, "batch_size": 4, "lora_rank": 2, "epochs": 1}
        with pytest.raises(ValueError, match=r"states/step-0000000001 cannot go on with ") as caught:
            train(config_of(tmp_path, **changes), worker)
        for told in (
            *("length=epochs (was steps, tokens or infinite)", "optimizer=rmsprop (was adamw)", "seed=1 (was 0)"),
            *("batch_size=4 (was 5)", "lora_rank=2 (was 0)"),
        ):
            assert told in str(caught.value)

    def test_beginning_anew_leaves_no_state_to_be_taken_for_its_own(self, tmp_path):
        write_case(tmp_path)
        worker, resumed = worker_of_test(self.device), Listener()
        output = tmp_path / "output"
        train(config_of(tmp_path, steps=4, save_every_steps=2), worker)
        train(config_of(tmp_path, steps=3, save_every_steps=1, resume=False), worker)
        assert {path.name for path in (output / "states").glob("step-*")} == {"step-0000000002", "step-0000000003"}
        train(config_of(tmp_path, steps=4), worker, [resumed])
        assert resumed.resumed_at == 3
        former = {path.name for path in (output / "former-1/states").glob("step-*")}
        assert former == {"step-0000000002", "step-0000000004"}
        assert (output / "former-1/models/step-0000000004").exists()
        train(config_of(tmp_path, steps=1, resume=False), worker)
        assert (output / "former-2/states").exists()
