import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from trainers.data import token_lengths as module
from trainers.data.token_lengths import token_lengths


@pytest.fixture
def words() -> Tokenizer:
    """One token per word."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def write(folder: Path, *lines: object) -> Path:
    path = folder / "data.jsonl"
    path.write_bytes(
        b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    )
    return path


def chat(*contents: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": content} for content in contents]}


def test_counts_contents_and_two_markers_per_message(tmp_path, words):
    assert token_lengths(write(tmp_path, chat("one two three", "four"), chat("")), words) == [3 + 2 + 1 + 2, 2]


def test_given_ids_are_counted_and_blank_lines_passed_over(tmp_path, words):
    path = write(tmp_path, {"input_ids": [5, 6, 7]}, b"", chat("a"), b"  ", {"input_ids": [1]})
    assert token_lengths(path, words) == [3, 3, 1]


def test_reports_every_byte_once_and_blocks_are_invisible(tmp_path, words, monkeypatch):
    path = write(tmp_path, *(chat("x " * n) for n in range(10)))
    monkeypatch.setattr(module, "_LINES_AT_ONCE", 4)
    sizes: list[int] = []
    assert token_lengths(path, words, sizes.append) == [n + 2 for n in range(10)]
    assert len(sizes) == 3
    assert sum(sizes) == path.stat().st_size


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not JSON: "),
        (b'{"messages": "\xff"}', "not JSON: .*utf-8"),
        (b"[" * 100_000, "not JSON: "),
        (chat("\ud800"), r"not JSON: .*'\\ud800'.* surrogates not allowed"),
        ([1], "expected an object with 'messages' or 'input_ids', got '.1.'$"),
        ({"text": "x"}, "expected an object with 'messages' or 'input_ids'"),
        ({"input_ids": []}, "'input_ids' must be a list of at least one integer"),
        ({"input_ids": [1, "2"]}, "'input_ids' must be"),
        ({"input_ids": [True]}, "'input_ids' must be"),
        ({"messages": []}, "'messages' must be a list of at least one"),
        ({"messages": [{"role": "user"}]}, "'messages' must be"),
        ({"messages": [{"role": "user", "content": None}]}, "'messages' must be"),
        ({"messages": ["hello"]}, "'messages' must be"),
    ],
)
def test_a_bad_line_is_named(tmp_path, words, line, message):
    path = write(tmp_path, chat("good"), b"", line)
    with pytest.raises(ValueError, match=rf"data\.jsonl:3: {message}"):
        token_lengths(path, words)


@pytest.mark.parametrize("lines", [[], [b"", b" "]])
def test_no_samples_are_an_error(tmp_path, words, lines):
    with pytest.raises(ValueError, match=r"data\.jsonl has no samples"):
        token_lengths(write(tmp_path, *lines), words)
