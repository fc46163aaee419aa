"""How many tokens each line of a JSONL file has: given as ``input_ids``, or as ``messages`` to be tokenised."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from trainers.data.json_line import parse_line

MARKERS_PER_MESSAGE = 2
"""Tokens that a chat template puts around a message: its role, and its end."""

_LINES_AT_ONCE = 512


def token_lengths(path: Path, tokenizer: Tokenizer, advance: Callable[[int], None] = lambda _: None) -> list[int]:
    """Count the tokens of every sample of a JSONL file.

    Args:
        path: lines of ``{"messages": [{"role": str, "content": str}, ...]}`` or ``{"input_ids": [int, ...]}``; blank
            lines are passed over.
        tokenizer: counts the contents of messages. A message has ``MARKERS_PER_MESSAGE`` tokens more.
        advance: called with the bytes read since its last call.

    Returns:
        Tokens per sample, in the order of the file.

    Raises:
        ValueError: if the file has no samples, or a line is neither form; names file and line.
        OSError: if the file cannot be read.
    """
    lengths: list[int] = []
    with path.open("rb") as file:
        numbered = enumerate(file, start=1)
        while block := list(islice(numbered, _LINES_AT_ONCE)):
            samples = [_parse(path, number, line) for number, line in block if line.strip()]
            lengths.extend(_count(samples, tokenizer))
            advance(sum(len(line) for _, line in block))
    if not lengths:
        raise ValueError(f"{path} has no samples: every line is blank, or there is none")
    return lengths


def _count(samples: list[int | list[str]], tokenizer: Tokenizer) -> Iterator[int]:
    contents = [content for sample in samples if isinstance(sample, list) for content in sample]
    tokens = (len(encoding.ids) for encoding in tokenizer.encode_batch(contents, add_special_tokens=False))
    for sample in samples:
        yield (
            sample
            if isinstance(sample, int)
            else sum(count + MARKERS_PER_MESSAGE for count in islice(tokens, len(sample)))
        )


def _parse(path: Path, number: int, line: bytes) -> int | list[str]:
    try:
        return _size_or_contents(parse_line(line), line)
    except ValueError as error:
        raise ValueError(f"{path}:{number}: {error}") from error


def _size_or_contents(sample: Any, line: bytes) -> int | list[str]:
    """Return the number of tokens if the line gives them, else the contents of its messages."""
    if isinstance(sample, dict) and "input_ids" in sample:
        ids = sample["input_ids"]
        if not isinstance(ids, list) or not ids or not all(type(token) is int for token in ids):
            raise ValueError("'input_ids' must be a list of at least one integer")
        return len(ids)
    if isinstance(sample, dict) and "messages" in sample:
        messages = sample["messages"]
        if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
            raise ValueError("'messages' must be a list of at least one {'role': string, 'content': string}")
        return [message["content"] for message in messages]
    start = line.strip()[:60].decode(errors="replace")
    raise ValueError(f"expected an object with 'messages' or 'input_ids', got {start!r}")


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))
