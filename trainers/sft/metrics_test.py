import json

import pytest

from trainers.sft.config import TrainConfig
from trainers.sft.display import LOSS_CURVE, LossCurve
from trainers.sft.metrics import METRICS, JsonlMetrics, read_metrics
from trainers.sft.progress import Progress, passed


@pytest.fixture
def config(tmp_path):
    return TrainConfig(model=tmp_path, data=tmp_path, output=tmp_path, epochs=1)


def lines(folder):
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def begun(folder, config, step=0):
    metrics = JsonlMetrics(folder)
    metrics.on_train_begin(config, Progress(step=step), None)
    return metrics


def test_records_are_in_the_file_at_once(tmp_path, config):
    metrics = begun(tmp_path, config)
    metrics.on_step({"step": 1, "loss": 2.5})
    metrics.on_validation({"step": 1, "loss": 3.5})
    assert lines(tmp_path) == [
        {"kind": "step", "step": 1, "loss": 2.5},
        {"kind": "validation", "step": 1, "loss": 3.5},
    ]
    metrics.on_train_end(Progress(), "done")


def test_resumed(tmp_path, config):
    """What comes after the state is computed anew, and was perhaps torn when the process died."""
    (tmp_path / METRICS).write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    metrics = begun(tmp_path, config, step=2)
    assert lines(tmp_path) == [{"step": 1}, {"step": 2}]
    metrics.on_step({"step": 3, "loss": 1.0})
    metrics.on_exception(RuntimeError())
    assert [record["step"] for record in lines(tmp_path)] == [1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == [METRICS]


def test_torn_line(tmp_path):
    path = tmp_path / METRICS
    assert read_metrics(path) == []
    path.write_text('{"step": 1}\n{"step": ')
    assert read_metrics(path) == [{"step": 1}]


def test_loss_curve(tmp_path, config):
    metrics = begun(tmp_path, config)
    for step in range(1, 4):
        metrics.on_step({"step": step, "loss": 1 / step})
    metrics.on_validation({"step": 3, "loss": 0.5})
    metrics.on_train_end(Progress(), "done")
    LossCurve(tmp_path).on_train_end(Progress(), "done")
    assert (tmp_path / LOSS_CURVE).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "interval, before, now, expected",
    [(None, 0, 9, False), (3, 0, 2, False), (3, 2, 3, True), (3, 3, 5, False), (3, 2, 9, True), (3, 3, 3, False)],
)
def test_passed(interval, before, now, expected):
    assert passed(interval, before, now) is expected
