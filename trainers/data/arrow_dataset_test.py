import json
import pickle
import sys

import numpy as np
import pyarrow
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainers.data import arrow_dataset
from trainers.data.arrow_dataset import ArrowDataset
from trainers.data.arrow_file import arrow_writer, encode_arrow
from trainers.data.jsonl_dataset import JsonlDataset

X = -100
TOKENS = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.sampled_from([X, 0, 7])), min_size=1, max_size=9)


def row(ids, labels):
    return {"input_ids": list(ids), "labels": list(labels)}


def written(path, samples, at_once=2):
    with path.open("wb") as file, arrow_writer(file) as write:
        for start in range(0, len(samples), at_once):
            write(encode_arrow(samples[start : start + at_once]))
    return path


def assert_same(one, other):
    assert len(one) == len(other) and one.num_dropped == other.num_dropped
    for name in ("lengths", "num_loss_counted_tokens"):
        assert getattr(one, name).dtype == np.int32
        assert getattr(one, name).tolist() == getattr(other, name).tolist()
    for index in range(len(one)):
        sample, expected = one[index], other[index]
        assert sample.keys() == expected.keys()
        assert sample["num_loss_counted_tokens"] == expected["num_loss_counted_tokens"]
        for name in ("input_ids", "labels"):
            assert sample[name].dtype == torch.int64 and torch.equal(sample[name], expected[name])


@given(samples=st.lists(TOKENS, min_size=1, max_size=8), at_once=st.integers(1, 4), limit=st.none() | st.integers(1, 9))
def test_the_same_as_of_jsonl(tmp_path_factory, samples, at_once, limit):
    folder = tmp_path_factory.mktemp("arrow")
    rows = [row(*zip(*tokens, strict=True)) for tokens in samples]
    (folder / "samples.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    dataset = ArrowDataset(written(folder / "samples.arrow", rows, at_once), limit)
    assert_same(dataset, JsonlDataset(folder / "samples.jsonl", limit))
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_is_mapped_and_pickled_without_its_values(tmp_path):
    path = written(tmp_path / "samples.arrow", [row(range(1, 50_000), [X] * 40_000 + [1] * 9_999)] * 4)
    before = pyarrow.total_allocated_bytes()
    dataset = ArrowDataset(path, max_seq_len=50_000)
    assert pyarrow.total_allocated_bytes() - before < 10_000
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 1000
    assert_same(pickle.loads(pickled), dataset)


def test_a_stream_of_large_lists_among_other_columns(tmp_path, monkeypatch):
    """As the package datasets writes a table; and a part of it, whose lists do not begin at the first value."""
    kind = pyarrow.large_list(pyarrow.int64())
    table = pyarrow.table(
        {
            "id": ["a", "b", "c"],
            "labels": pyarrow.array([[1], [X, 3], [X, X, 6]], kind),
            "input_ids": pyarrow.array([[1], [2, 3], [4, 5, 6]], kind),
        }
    )
    path = tmp_path / "stream.arrow"
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    dataset = ArrowDataset(path)
    monkeypatch.setattr(arrow_dataset, "map_arrow", lambda path: table.slice(1))
    part = ArrowDataset(path)
    assert dataset.lengths.tolist() == [1, 2, 3] and part.lengths.tolist() == [2, 3]
    assert dataset.num_loss_counted_tokens.tolist() == [0, 1, 1] and part.num_loss_counted_tokens.tolist() == [1, 1]
    assert dataset[2]["input_ids"].tolist() == part[1]["input_ids"].tolist() == [4, 5, 6]
    assert dataset[1]["labels"].tolist() == part[0]["labels"].tolist() == [X, 3]


GOOD = row([1, 2], [X, 2])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([GOOD, GOOD, GOOD, row([1, 2], [2])], "row 3: 2 input_ids and 1 labels: each token needs one label"),
        ([GOOD, row([], [])], "row 1: no tokens: a sample needs at least one"),
        ([GOOD, GOOD, row([1, -2], [1, 2])], "row 2: negative token id -2 in 'input_ids'"),
        ([GOOD, row([1, 2], [1, -1])], "row 1: label -1: a label is a token id, or -100 for no loss"),
        ([row([1, None], [1, 2])], "'input_ids' has nulls"),
        ([], "no samples"),
    ],
)
def test_bad_rows_are_named(tmp_path, rows, message):
    with pytest.raises(ValueError, match="samples.arrow: " + message):
        ArrowDataset(written(tmp_path / "samples.arrow", rows))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"input_ids": [[1]]}, r"expected the columns 'input_ids' and 'labels', got \['input_ids'\]"),
        ({"input_ids": [[1]], "labels": [["a"]]}, "'labels' must be lists of integers, got list<"),
        ({"input_ids": [1], "labels": [[1]]}, "'input_ids' must be lists of integers, got int64"),
        (None, "is not an Arrow file, or not a whole one: "),
    ],
)
def test_other_files_are_refused(tmp_path, columns, message):
    path = tmp_path / "other.arrow"
    path.write_bytes(b"hello")
    if columns:
        table = pyarrow.table(columns)
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(ValueError, match=f"other.arrow:? {message}"):
        ArrowDataset(path)


def test_a_file_that_was_not_written_to_its_end_is_refused(tmp_path):
    """Also where it ends between two batches, which looks whole to a reader of streams."""
    table = pyarrow.table({"input_ids": [[1, 2]] * 3, "labels": [[1, 2]] * 3})
    path = tmp_path / "samples.arrow"
    for kind in (pyarrow.ipc.new_stream, pyarrow.ipc.new_file):
        with pyarrow.OSFile(str(path), "wb") as file, kind(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=1)
        content = path.read_bytes()
        assert len(ArrowDataset(path)) == 3
        for size in range(len(content)):
            path.write_bytes(content[:size])
            with pytest.raises(ValueError, match="samples.arrow is not an Arrow file, or not a whole one: "):
                ArrowDataset(path)


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.ipc", None)
    with pytest.raises(ValueError, match="Arrow files need the extra package pyarrow, which is not installed"):
        ArrowDataset(tmp_path / "samples.arrow")
