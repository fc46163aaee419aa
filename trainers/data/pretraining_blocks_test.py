import io
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainers.data import pretraining_blocks
from trainers.data.loader import get_data_loader
from trainers.data.minibatch import IGNORE_INDEX
from trainers.data.pretraining_blocks import PADDING, PretrainingBlocks, write_pretraining_blocks
from trainers.data.sampler import EpochSampler

EOS = 9
PAD = 9  # the same id, as in many models: padding must not be told by it
X = IGNORE_INDEX


def test_exact_values(tmp_path):
    path = tmp_path / "blocks.npy"
    documents = [[1, 2, 3], [], torch.tensor([4, EOS]), np.array([5], np.uint16)]
    assert write_pretraining_blocks(iter(documents), path, 4, EOS) == 2 == len(np.load(path))
    assert np.load(path).tolist() == [[1, 2, 3, EOS], [4, EOS, 5, EOS]]
    assert write_pretraining_blocks([*documents, [6]], path, 4, EOS) == 3
    blocks = PretrainingBlocks(path, PAD)
    assert blocks.lengths.tolist() == [4, 4, 4]
    assert blocks.num_loss_counted_tokens.tolist() == [3, 3, 1]
    assert blocks[1]["input_ids"].tolist() == blocks[1]["labels"].tolist() == [4, EOS, 5, EOS]
    assert blocks[2]["input_ids"].tolist() == [6, EOS, PAD, PAD]
    assert blocks[2]["labels"].tolist() == [6, EOS, X, X]
    assert blocks[2]["num_loss_counted_tokens"] == 1
    assert blocks[0]["input_ids"].dtype == torch.int64
    with pytest.raises(IndexError):
        blocks[3]


@given(
    documents=st.lists(st.lists(st.integers(0, 2**31 - 1).filter(lambda token: token != EOS), max_size=9), max_size=12),
    block_size=st.integers(2, 7),
    at_once=st.integers(1, 20),
)
def test_documents_can_be_read_back(tmp_path_factory, documents, block_size, at_once):
    if not any(documents):
        return
    path = tmp_path_factory.mktemp("blocks") / "blocks.npy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining_blocks, "_TOKENS_AT_ONCE", at_once)
        num_blocks = write_pretraining_blocks(documents, path, block_size, EOS)
    row = np.load(path).flatten()
    expected = [token for document in documents if document for token in [*document, EOS]]
    assert row[: len(expected)].tolist() == expected
    assert (row[len(expected) :] == PADDING).all()
    assert num_blocks == -(-len(expected) // block_size)
    blocks = PretrainingBlocks(path, PAD)
    for index in range(num_blocks):
        labels = blocks[index]["labels"]
        assert blocks.num_loss_counted_tokens[index] == (labels[1:] != X).sum()


def test_long_blocks_take_no_more_memory(tmp_path):
    """Some 16 MB of documents, and a copy or two of them, whatever the block is."""
    documents = (np.ones(100_000, np.int32) for _ in range(200))
    tracemalloc.start()
    write_pretraining_blocks(documents, tmp_path / "blocks.npy", 131_072, EOS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


def test_is_mapped_and_goes_through_the_loader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pretraining_blocks([range(1, 100)], tmp_path / "blocks.npy", 8, EOS)
    blocks = PretrainingBlocks(Path("blocks.npy"), PAD)
    assert isinstance(blocks._blocks, np.memmap)
    loader = get_data_loader(
        blocks, batch_size=4, max_tokens_per_rank=16, rank=0, num_ranks=1, sampler=EpochSampler(len(blocks), 0)
    )
    counted = sum(batch.minibatches[0]["batch_num_loss_counted_tokens"] for batch in loader)
    assert counted == 100 - len(blocks)
    monkeypatch.chdir("/")
    again = pickle.loads(pickle.dumps(blocks))
    assert isinstance(again._blocks, np.memmap)
    assert again[0]["labels"].tolist() == blocks[0]["labels"].tolist()


@pytest.mark.parametrize(
    ("documents", "options", "message"),
    [
        ([[1]], {"block_size": 1}, "block_size must be an integer >= 2, got 1"),
        ([[1]], {"eos_token_id": -1}, "eos_token_id must be from 0 to 2147483647, got -1"),
        ([], {}, "blocks.npy: no document has a token"),
        ([[]], {}, "blocks.npy: no document has a token"),
        ([[1], [2, -1]], {}, "document 1 has ids from -1 to 2"),
        ([[1 << 31]], {}, "document 0 has ids from 2147483648 to 2147483648"),
        ([[1.5]], {}, "document 0 must be one row of integers"),
        ([[[1]]], {}, "document 0 must be one row of integers"),
    ],
)
def test_bad_input_is_named_and_writes_nothing(tmp_path, documents, options, message):
    with pytest.raises(ValueError, match=message):
        write_pretraining_blocks(
            documents, tmp_path / "blocks.npy", **({"block_size": 4, "eos_token_id": EOS} | options)
        )
    assert not list(tmp_path.iterdir())


def saved(save, *arrays):
    file = io.BytesIO()
    save(file, *arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        saved(np.save, np.zeros(3, np.int32)),
        saved(np.save, np.zeros((2, 2))),
        saved(np.save, np.zeros((0, 4), np.int32)),
        saved(np.save, np.zeros((2, 2), np.int32))[:-1],
        saved(np.savez, np.zeros((2, 2), np.int32)),
        b"hello",
        b"",
    ],
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "blocks.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="blocks.npy is not a file of blocks"):
        PretrainingBlocks(path, PAD)
