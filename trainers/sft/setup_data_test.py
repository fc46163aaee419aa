"""Data of which no step can be made are refused at the start, by file."""

import itertools
import json
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data.pretraining_blocks import write_pretraining_blocks
from trainers.sft.config import TrainConfig
from trainers.sft.setup_data import build_loader, count_steps, read_data

SILENT = [([7, 8, 9], [7, -100, -100]), ([5, 6], [-100, -100])]
"""Samples without loss: a first token is predicted from nothing."""
TAUGHT = ([1, 2, 3, 4], [-100, -100, 3, 4])


def written(path, samples):
    path.write_text("".join(json.dumps({"input_ids": ids, "labels": labels}) + "\n" for ids, labels in samples))
    return path


def config_of(folder, **changes):
    return TrainConfig(**{"model": folder, "output": folder, **changes})


def read(folder, **changes):
    return read_data(config_of(folder, **({"steps": 3} | changes)), pad_token_id=0)


@pytest.mark.parametrize(
    ("samples", "changes", "message"),
    [
        (SILENT, {}, r"train.jsonl: none of the 2 training samples carries loss"),
        (
            [*SILENT, TAUGHT],
            {"oversize": "drop", "max_tokens_per_rank": 3},
            r"train.jsonl: none of the 2 training samples that max_tokens_per_rank=3 leaves carries loss",
        ),
        ([*SILENT, TAUGHT], {"validation_fraction": 0.5}, r"train.jsonl: none of the \d (training|validation) samples"),
    ],
)
def test_training_data(tmp_path, samples, changes, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, data=written(tmp_path / "train.jsonl", samples), **changes)


def test_validation_data(tmp_path):
    data = written(tmp_path / "train.jsonl", [TAUGHT])
    with pytest.raises(ValueError, match="validation.jsonl: none of the 2 validation samples carries loss"):
        read(tmp_path, data=data, validation_data=written(tmp_path / "validation.jsonl", SILENT))


@pytest.mark.parametrize("purpose", ["training", "validation"])
def test_no_sample_is_short_enough(tmp_path, purpose):
    files = [written(tmp_path / f"{name}.jsonl", [TAUGHT if name == purpose else ([1, 2], [1, 2])])
             for name in ("training", "validation")]  # fmt: skip
    with pytest.raises(ValueError, match=f"{purpose}.jsonl: every {purpose} sample is longer than max_seq_len=3"):
        read(tmp_path, data=files[0], validation_data=files[1], max_seq_len=3)


def test_blocks(tmp_path):
    path = tmp_path / "blocks.npy"
    write_pretraining_blocks([[2]], path, block_size=4, eos_token_id=2)
    with pytest.raises(ValueError, match=r"blocks.npy: none of the 1 training samples carries loss"):
        read(tmp_path, data=path)


def test_one_sample_with_loss_is_enough(tmp_path):
    data, validation = read(tmp_path, data=written(tmp_path / "train.jsonl", [*SILENT, TAUGHT]))
    assert data.num_loss_counted_tokens.tolist() == [0, 0, 2] and validation is None


@settings(max_examples=60, deadline=None)
@given(
    samples=st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=12),
    batch_size=st.integers(1, 15),
    length=st.sampled_from([{"epochs": 3}, {"tokens": 1}, {"tokens": 40}, {"tokens": 97}]),
)
def test_the_schedule_is_told_as_many_steps_as_the_loop_takes(tmp_path_factory, samples, batch_size, length):
    """With samples that are dropped, samples without loss, and whole batches of them."""
    folder = tmp_path_factory.getbasetemp()
    rows = [([1] * size, [2 if carries else -100] * size) for size, carries in [*samples, (3, True)]]
    changes = {"batch_size": batch_size, "max_tokens_per_rank": 6, "oversize": "drop", "num_workers": 0, **length}
    config = config_of(folder, data=written(folder / "steps.jsonl", rows), **changes)
    data, _ = read_data(config, pad_token_id=0)
    worker = SimpleNamespace(rank=0, world_size=1, device=torch.device("cpu"))
    loader = build_loader(config, worker, data, 0, quadratic=0.0)
    steps, tokens = 0, 0
    for batch in itertools.chain.from_iterable(itertools.repeat(loader, config.epochs or 1)):
        steps += bool(batch.minibatches[0]["batch_num_loss_counted_tokens"])
        tokens += batch.num_tokens
        if config.tokens and tokens >= config.tokens:
            break
    assert count_steps(config, data) == steps


@pytest.mark.parametrize("steps", [7, None])
def test_steps_that_are_given(tmp_path, steps):
    config = TrainConfig(model=tmp_path, data=tmp_path, output=tmp_path, steps=steps, infinite=not steps)
    assert count_steps(config, None) == steps
