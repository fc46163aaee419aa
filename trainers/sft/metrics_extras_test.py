"""What TensorBoard and Weights & Biases read of a training: every value that its callbacks were told, and no other."""

import json
import struct

import pytest
import torch
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from testing.distributed.case import DistributedTest
from trainers.sft.loop import train
from trainers.sft.metrics import TensorBoardMetrics, WandbMetrics
from trainers.sft.sft_cases import Listener, config_of, worker_of_test, write_case

EVERY_OTHER = {"validation_fraction": 0.2, "validate_every_steps": 2, "save_every_steps": 2, "keep_last": None}


class Stops(Exception):
    pass


class Stopping(Listener):
    """Fails at step 4, which is then in no state."""

    def on_step(self, record):
        super().on_step(record)
        if record["step"] == 4:
            raise Stops


def by_name(kind, records):
    """Series of ``(step, value)`` by their names."""
    names = {name for record in records for name in record} - {"step"}
    return {f"{kind}/{name}": [(record["step"], record[name]) for record in records] for name in names}


def told(listener):
    return by_name("train", listener.steps) | by_name("validation", listener.validations)


def read_tensorboard(folder):
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def as_float32(series):
    return {name: [(step, torch.tensor(value).float().item()) for step, value in each] for name, each in series.items()}


def read_wandb(folder):
    """Return configuration, series and exit status of the one offline run."""
    wandb.teardown()  # (until the process that writes it has ended)
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    records = [Record.FromString(each) for each in leveldb_records(path.read_bytes())]
    updates = [each for record in records for each in record.run.config.update if each.key != "_wandb"]
    config = {each.key: json.loads(each.value_json) for each in updates}
    series = {}
    for record in records:
        if record.HasField("history"):
            items = {item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            step = items["_step"]
            for name, value in items.items():
                if not name.startswith("_"):
                    series.setdefault(name, []).append((step, value))
    (status,) = [record.exit.exit_code for record in records if record.HasField("exit")]
    return config, series, status


def leveldb_records(content):
    """Yield the records of a log file of LevelDB: parts of at most a block of 32 KiB, behind a header of 7 bytes."""
    whole, at = b"", 7
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        _, size, kind = struct.unpack_from("<IHB", content, at)
        whole += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # (the whole record, or its last part)
            yield whole
            whole = b""


class TestExtras(DistributedTest):
    world_size = 1

    def test_all_of_it_is_read_back(self, tmp_path):
        write_case(tmp_path)
        config, listener = config_of(tmp_path, steps=3, **EVERY_OTHER), Listener()
        writers = [TensorBoardMetrics(config.output), WandbMetrics(config.output)]
        train(config, worker_of_test(self.device), [listener, *writers])
        assert len(listener.steps) == 3 and len(listener.validations) == 1
        assert read_tensorboard(config.output) == as_float32(told(listener))
        read_config, series, status = read_wandb(config.output)
        assert read_config == config.model_dump(mode="json")
        assert (series, status) == (told(listener), 0)

    def test_a_failed_training_that_is_resumed(self, tmp_path):
        """Steps that were not saved are computed again: TensorBoard shows them once, and the failed run failed."""
        write_case(tmp_path)
        config, failed, resumed = config_of(tmp_path, steps=5, **EVERY_OTHER), Stopping(), Listener()
        worker = worker_of_test(self.device)
        with pytest.raises(Stops):
            train(config, worker, [TensorBoardMetrics(config.output), WandbMetrics(config.output), failed])
        assert read_wandb(config.output)[1:] == (told(failed), 1)
        train(config, worker, [TensorBoardMetrics(config.output), resumed])
        assert resumed.resumed_at == 2
        kept = [record for record in failed.steps if record["step"] <= 2]
        series = by_name("train", kept + resumed.steps) | by_name(
            "validation", failed.validations[:1] + resumed.validations
        )
        assert read_tensorboard(config.output) == as_float32(series)
