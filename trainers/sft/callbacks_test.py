import io
import logging

import pytest
from rich.console import Console

from trainers.sft.callbacks import Callback, Callbacks
from trainers.sft.config import TrainConfig
from trainers.sft.display import ProgressBar
from trainers.sft.progress import Progress

EVENTS = {
    "on_resume": (3, "path"),
    "on_train_begin": (None, Progress(), 4),
    "on_step": ({"step": 1},),
    "on_validation": ({"step": 1},),
    "on_save": ("state", 1, "path"),
    "on_train_end": (Progress(), "done"),
    "on_exception": (KeyboardInterrupt(),),
}


class Failing(Callback):
    def on_step(self, record):
        raise RuntimeError("cannot")


def test_each_hears_everything_in_order():
    heard = []

    class Listener(Callback):
        def __getattribute__(self, name):
            if name.startswith("on_"):
                return lambda *arguments: heard.append((name, arguments))
            return super().__getattribute__(name)

    assert {name for name in vars(Callback) if name.startswith("on_")} == EVENTS.keys()
    both = Callbacks([Listener(), Listener()])
    for name, arguments in EVENTS.items():
        getattr(both, name)(*arguments)
    assert heard == [event for event in EVENTS.items() for _ in range(2)]


def test_an_exception_is_raised():
    with pytest.raises(RuntimeError, match="cannot"):
        Callbacks([Failing()]).on_step({})


def test_a_tolerant_one_is_logged_and_the_next_is_called(caplog):
    class Tolerant(Failing):
        tolerant = True

    with caplog.at_level(logging.ERROR), pytest.raises(RuntimeError, match="cannot"):
        Callbacks([Tolerant(), Failing()]).on_step({})
    assert [record.getMessage() for record in caplog.records] == [
        "on_step of Tolerant failed; it is tolerant, the training goes on"
    ]


@pytest.fixture
def config(tmp_path):
    return TrainConfig(model=tmp_path, data=tmp_path, output=tmp_path, steps=40)


def test_lines_where_there_is_no_terminal(config):
    output = io.StringIO()
    bar = ProgressBar(Console(file=output, width=200))
    bar.on_train_begin(config, Progress(), 40)
    for step in range(1, 5):
        bar.on_step({"step": step, "loss": 1.0, "tokens_per_second": 1234.0, "mfu": 0.421})
    bar.on_train_end(Progress(step=4, samples=2000, tokens=10, seconds=3.0), "stopped by SIGTERM")
    assert output.getvalue().splitlines() == [
        *(f"step {step}/40  loss 1.0000  1,234 tokens/s  MFU 42%" for step in (1, 2, 4)),
        "stopped by SIGTERM: 4 steps, 2,000 samples, 10 tokens in 3 s",
    ]


@pytest.mark.parametrize("end", ["on_train_end", "on_exception"])
def test_the_cursor_comes_back(config, end):
    output = io.StringIO()
    bar = ProgressBar(Console(file=output, force_terminal=True, width=80))
    bar.on_train_begin(config, Progress(), 40)
    getattr(bar, end)(*EVENTS[end])
    hidden, shown = "\x1b[?25l", "\x1b[?25h"
    assert output.getvalue().rfind(shown) > output.getvalue().rfind(hidden) >= 0
