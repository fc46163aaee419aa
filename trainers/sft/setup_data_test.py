"""Data of which no step can be made are refused at the start, by file."""

import json

import pytest

from trainers.data.pretraining_blocks import write_pretraining_blocks
from trainers.sft.config import TrainConfig
from trainers.sft.setup_data import read_data

SILENT = [([7, 8, 9], [7, -100, -100]), ([5, 6], [-100, -100])]
"""Samples without loss: a first token is predicted from nothing."""
TAUGHT = ([1, 2, 3, 4], [-100, -100, 3, 4])


def written(path, samples):
    path.write_text("".join(json.dumps({"input_ids": ids, "labels": labels}) + "\n" for ids, labels in samples))
    return path


def read(folder, **changes):
    return read_data(TrainConfig(**{"model": folder, "output": folder, "steps": 3, **changes}), pad_token_id=0)


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


def test_blocks(tmp_path):
    path = tmp_path / "blocks.npy"
    write_pretraining_blocks([[2]], path, block_size=4, eos_token_id=2)
    with pytest.raises(ValueError, match=r"blocks.npy: none of the 1 training samples carries loss"):
        read(tmp_path, data=path)


def test_one_sample_with_loss_is_enough(tmp_path):
    data, validation = read(tmp_path, data=written(tmp_path / "train.jsonl", [*SILENT, TAUGHT]))
    assert data.num_loss_counted_tokens.tolist() == [0, 0, 2] and validation is None
