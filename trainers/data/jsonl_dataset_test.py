import copy
import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainers.data import jsonl_index
from trainers.data.jsonl_dataset import JsonlDataset
from trainers.data.minibatch import IGNORE_INDEX

X = IGNORE_INDEX
A = {"input_ids": [1, 2, 3], "labels": [X, 2, 3]}
B = {"input_ids": [4, 100, 0, 7], "labels": [4, X, 100, X]}
C = {"input_ids": [10], "labels": [10]}


def write(folder: Path, *lines: object) -> Path:
    path = folder / "data.jsonl"
    path.write_bytes(
        b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    )
    return path


def lists(dataset) -> list[dict]:
    samples = [dataset[index] for index in range(len(dataset))]
    return [{key: sample[key].tolist() for key in ("input_ids", "labels")} for sample in samples]


class TestReading:
    def test_exact_values_in_any_order(self, tmp_path):
        dataset = JsonlDataset(write(tmp_path, A, b"", B, b" \r", C))
        assert len(dataset) == 3
        assert dataset.lengths.tolist() == [3, 4, 1]
        # The first label of a sequence has nothing to be predicted from.
        assert dataset.num_loss_counted_tokens.tolist() == [2, 1, 0]
        assert [dataset[index]["num_loss_counted_tokens"] for index in (2, 0, 1)] == [0, 2, 1]
        assert lists(dataset) == [A, B, C]
        assert dataset[1]["input_ids"].dtype == dataset[1]["labels"].dtype == torch.int64
        with pytest.raises(IndexError):
            dataset[3]

    @pytest.mark.parametrize("ending", [b"", b"\r\n"])
    def test_the_end_of_the_file_does_not_matter(self, tmp_path, ending):
        path = tmp_path / "data.jsonl"
        path.write_bytes(json.dumps(A).encode() + b"\n" + json.dumps(B).encode() + ending)
        assert lists(JsonlDataset(path)) == [A, B]

    @given(
        samples=st.lists(
            st.lists(st.tuples(st.integers(0, 1 << 62), st.booleans()), min_size=1, max_size=5), min_size=1, max_size=8
        ),
        separators=st.sampled_from([(",", ":"), (", ", ": "), (" ,", " : ")]),
        counts=st.booleans(),
        block=st.integers(1, 300),
    )
    def test_what_is_written_is_read_in_every_form_and_any_blocks(
        self, tmp_path_factory, samples, separators, counts, block
    ):
        rows = []
        for tokens in samples:
            row = {"input_ids": [t for t, _ in tokens], "labels": [t if loss else X for t, loss in tokens]}
            if counts:
                row |= {"len": len(tokens), "num_loss_counted_tokens": sum(loss for _, loss in tokens[1:])}
            rows.append(row)
        path = tmp_path_factory.mktemp("data") / "data.jsonl"
        path.write_text("".join(json.dumps(row, separators=separators) + "\n" for row in rows))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jsonl_index, "_BLOCK_BYTES", block)
            dataset = JsonlDataset(path)
        assert lists(dataset) == [{key: row[key] for key in ("input_ids", "labels")} for row in rows]
        assert dataset.lengths.tolist() == [len(tokens) for tokens in samples]
        assert dataset.num_loss_counted_tokens.tolist() == [sum(loss for _, loss in tokens[1:]) for tokens in samples]

    def test_other_keys_are_passed_over_wherever_they_stand(self, tmp_path):
        ids, labels = A["input_ids"], A["labels"]
        lines = [
            {"source": "[x]"} | A,
            A | {"source": ["x"]},
            {"input_ids": ids, "source": [7, 8, 9], "labels": labels},
            {"source": [7, 8, 9], "labels": labels, "input_ids": ids},
        ]
        assert lists(JsonlDataset(write(tmp_path, *lines))) == [A] * 4

    def test_reports_every_byte_once(self, tmp_path, monkeypatch):
        path = write(tmp_path, *[A] * 20)
        monkeypatch.setattr(jsonl_index, "_BLOCK_BYTES", 100)
        sizes: list[int] = []
        JsonlDataset(path, advance=sizes.append)
        assert len(sizes) > 5
        assert sum(sizes) == path.stat().st_size

    def test_longer_samples_are_dropped_and_said(self, tmp_path, caplog):
        dataset = JsonlDataset(write(tmp_path, A, B, C), max_seq_len=3)
        assert lists(dataset) == [A, C]
        assert dataset.num_dropped == 1
        assert dataset.lengths.tolist() == [3, 1]
        assert dataset.num_loss_counted_tokens.tolist() == [2, 0]
        assert "left out 1 of 3 samples of" in caplog.text
        assert "longer than max_seq_len=3" in caplog.text

    def test_all_samples_may_be_too_long(self, tmp_path):
        dataset = JsonlDataset(write(tmp_path, A, B), max_seq_len=2)
        assert (len(dataset), dataset.num_dropped) == (0, 2)


class TestSharing:
    def test_pickled_opens_the_file_anew(self, tmp_path):
        dataset = JsonlDataset(write(tmp_path, A, B))
        assert lists(pickle.loads(pickle.dumps(dataset))) == [A, B]
        assert lists(copy.deepcopy(dataset)) == [A, B]

    def test_ten_million_lines_take_200_megabytes(self):
        assert jsonl_index.ENTRY.itemsize == 20

    def test_threads_share_no_reading_position(self, tmp_path):
        rows = [{"input_ids": [i] * 9, "labels": [i] * 9} for i in range(2000)]
        dataset = JsonlDataset(write(tmp_path, *rows))
        with ThreadPoolExecutor(4) as threads:
            ids = list(threads.map(lambda index: dataset[index]["input_ids"][0].item(), range(len(rows))))
        assert ids == list(range(len(rows)))

    def test_a_dead_data_set_closes_its_file(self, tmp_path):
        before = len(os.listdir("/proc/self/fd"))
        dataset = JsonlDataset(write(tmp_path, A))
        assert len(os.listdir("/proc/self/fd")) == before + 1
        del dataset
        assert len(os.listdir("/proc/self/fd")) == before

    def test_a_changed_file_is_refused(self, tmp_path):
        dataset = JsonlDataset(write(tmp_path, A, B))
        pickled = pickle.dumps(dataset)
        write(tmp_path, A, C)
        for each in (dataset, pickle.loads(pickled)):
            with pytest.raises(ValueError, match=r"data\.jsonl was changed after it was indexed"):
                each[0]

    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_a_file_that_is_replaced_while_it_is_indexed_is_refused(self, tmp_path, monkeypatch, moment):
        """Else offsets of one file would be read from another; nor is such an index kept."""
        path, other, cache = write(tmp_path, A), tmp_path / "other", tmp_path / "cache"
        other.write_bytes(json.dumps(C | {"x": "A" * 30}).encode())
        scan = jsonl_index._scan

        def replace_and_scan(path, *rest):
            if moment == "before":
                other.replace(path)
            scanned = scan(path, *rest)
            if moment == "after":
                other.replace(path)
            return scanned

        monkeypatch.setattr(jsonl_index, "_scan", replace_and_scan)
        with pytest.raises(ValueError, match=r"data\.jsonl was changed while it was indexed"):
            JsonlDataset(path, cache_dir=cache)
        assert not list(cache.glob("*.npy"))


class TestBadLines:
    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (b"{", "not JSON: "),
            (b"[" * 100_000, "not JSON: "),
            (b'{"input_ids": [1], "labels": [1]} x', "not JSON: "),
            (b'{"input_ids": [01], "labels": [1]}', "not JSON: "),
            (b'{"input_ids": [1,], "labels": [1]}', "not JSON: "),
            (b'{"input_ids": [1 2], "labels": [1]}', "not JSON: "),
            (b'{"input_ids": [1], "labels": [1], "labels": [2]}', "not JSON: the key 'labels' stands twice"),
            (b"\xff", "not JSON: .*utf-8"),
            ([1], "expected an object with 'input_ids' and 'labels', got '.1.'"),
            ({"input_ids": [1]}, "expected an object"),
            ({"input_ids": 1, "labels": [1]}, "'input_ids' must be a list of integers"),
            ({"input_ids": [1.5], "labels": [1]}, "'input_ids' must be a list of integers"),
            ({"input_ids": [True], "labels": [1]}, "'input_ids' must be a list of integers"),
            ({"input_ids": [1], "labels": ["1"]}, "'labels' must be a list of integers"),
            ({"input_ids": [1 << 63], "labels": [1]}, "'input_ids' must be a list of integers of at most 64 bits"),
            ({"input_ids": [1, 2], "labels": [1]}, "2 input_ids and 1 labels"),
            ({"input_ids": [], "labels": []}, "no tokens"),
            ({"input_ids": [5, -1], "labels": [X, X]}, "negative token id -1 in 'input_ids'"),
            ({"input_ids": [1, 2], "labels": [X, -1]}, "label -1: a label is a token id, or -100 for no loss"),
            ({"input_ids": [1, 2], "labels": [X, -1001]}, "label -1001"),
            (A | {"len": 4}, "'len' is 4, but the sample has 3"),
            (A | {"len": None}, "'len' is None, but the sample has 3"),
            (A | {"num_loss_counted_tokens": 3}, "'num_loss_counted_tokens' is 3, but the sample has 2"),
            (A | {"len": 3, "num_loss_counted_tokens": 1}, "'num_loss_counted_tokens' is 1, but the sample has 2"),
        ],
    )
    def test_is_named_or_left_out(self, tmp_path, monkeypatch, caplog, line, message):
        monkeypatch.setattr(jsonl_index, "_BLOCK_BYTES", 30)  # so that the number counts earlier blocks
        path = write(tmp_path, A, b"", line, B)
        with pytest.raises(ValueError, match=rf"data\.jsonl:3: {message}.*on_bad_line='skip'"):
            JsonlDataset(path)
        dataset = JsonlDataset(path, on_bad_line="skip")
        assert lists(dataset) == [A, B]
        assert dataset.num_skipped == 1
        assert "data.jsonl:3: " in caplog.text
        assert "left out 1 bad lines" in caplog.text

    @pytest.mark.parametrize("lines", [[], [b"", b" "]])
    def test_no_samples_are_an_error(self, tmp_path, lines):
        with pytest.raises(ValueError, match=r"data\.jsonl has no samples"):
            JsonlDataset(write(tmp_path, *lines))

    def test_only_bad_lines_are_an_error_also_when_skipped(self, tmp_path):
        with pytest.raises(ValueError, match=r"data\.jsonl has no samples"):
            JsonlDataset(write(tmp_path, b"{"), on_bad_line="skip")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"max_seq_len": 0}, "max_seq_len must be an integer >= 1, got 0"),
            ({"on_bad_line": "ignore"}, "on_bad_line='ignore' is unknown: choose one of error, skip"),
            ({"num_processes": 0}, "num_processes must be an integer >= 1, got 0"),
        ],
    )
    def test_an_argument_is_named(self, tmp_path, options, message):
        with pytest.raises(ValueError, match=message):
            JsonlDataset(write(tmp_path, A), **options)


class TestProcesses:
    def test_any_number_gives_the_same_index_and_the_same_error(self, tmp_path, monkeypatch):
        monkeypatch.setattr(jsonl_index, "_BLOCK_BYTES", 300)
        path = write(tmp_path, *([A, B, C] * 20), b"{", *[B] * 20)
        one, three = (JsonlDataset(path, on_bad_line="skip", num_processes=number) for number in (1, 3))
        assert np.array_equal(one._entries, three._entries)
        assert one.num_skipped == three.num_skipped == 1
        with pytest.raises(ValueError, match=r"data\.jsonl:61: not JSON"):
            JsonlDataset(path, num_processes=3)


class TestCache:
    @pytest.fixture
    def scans(self, monkeypatch) -> list[Path]:
        """Paths of the files that were scanned."""
        scanned = []
        scan = jsonl_index._scan
        monkeypatch.setattr(jsonl_index, "_scan", lambda path, *rest: (scanned.append(path), scan(path, *rest))[1])
        return scanned

    def test_a_file_is_scanned_once(self, tmp_path, scans):
        path, cache = write(tmp_path, A, B, C), tmp_path / "cache"
        datasets = [JsonlDataset(path, max_seq_len=limit, cache_dir=cache) for limit in (None, 3, None)]
        assert len(scans) == 1
        assert [lists(dataset) for dataset in datasets] == [[A, B, C], [A, C], [A, B, C]]

    def test_who_asks_meanwhile_waits_for_the_first(self, tmp_path, scans):
        path = write(tmp_path, *[A] * 5000)
        with ThreadPoolExecutor(4) as threads:
            datasets = list(threads.map(lambda _: JsonlDataset(path, cache_dir=tmp_path / "cache"), range(4)))
        assert len(scans) == 1
        assert {len(dataset) for dataset in datasets} == {5000}

    def test_a_changed_file_is_scanned_again(self, tmp_path, scans):
        cache = tmp_path / "cache"
        assert lists(JsonlDataset(write(tmp_path, A), cache_dir=cache)) == [A]
        assert lists(JsonlDataset(write(tmp_path, A, B), cache_dir=cache)) == [A, B]
        assert len(scans) == 2

    def test_bad_lines_are_found_again(self, tmp_path):
        path, cache = write(tmp_path, A, b"{"), tmp_path / "cache"
        assert JsonlDataset(path, on_bad_line="skip", cache_dir=cache).num_skipped == 1
        with pytest.raises(ValueError, match=r"data\.jsonl:2: not JSON"):
            JsonlDataset(path, cache_dir=cache)
