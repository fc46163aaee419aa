"""Turns a JSONL file of conversations into a JSONL or Arrow file of token ids and labels, on several processes."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import closing, nullcontext
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path

from trainers.data.arrow_file import arrow_writer, encode_arrow, import_pyarrow
from trainers.data.atomic_write import atomic_write
from trainers.data.chat import ChatTokenizer
from trainers.data.json_line import parse_line
from trainers.data.jsonl_blocks import BadLines, FileBlock, OnBadLine, blocks_of, map_in_processes
from trainers.data.minibatch import Sample
from trainers.data.tokenizer import load_tokenizer

_BLOCK_BYTES = 2 << 20


@dataclass(frozen=True)
class PrepareSummary:
    """What became of the lines of a file.

    Attributes:
        kept: samples written.
        too_short: conversations of fewer tokens than ``min_len``.
        too_long: conversations of ``max_len`` tokens or more.
        without_loss: conversations of the right length in which no token carries loss.
        bad_lines: lines that were skipped.
        tokens: tokens written.
        loss_tokens: those of them that carry loss.
    """

    kept: int = 0
    too_short: int = 0
    too_long: int = 0
    without_loss: int = 0
    bad_lines: int = 0
    tokens: int = 0
    loss_tokens: int = 0

    def __add__(self, other: "PrepareSummary") -> "PrepareSummary":
        return PrepareSummary(*map(sum, zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class _Settings:
    tokenizer: str
    chat_template: str | None
    min_len: int
    max_len: int | None
    trained_roles: tuple[str, ...]
    unmask: bool
    arrow: bool


@dataclass(frozen=True)
class _Prepared:
    content: bytes
    summary: PrepareSummary
    num_lines: int
    bad_lines: list[tuple[int, str]]


def prepare(
    source: Path,
    tokenizer: str | Path,
    output: Path,
    *,
    chat_template: Path | None = None,
    min_len: int = 20,
    max_len: int | None = None,
    trained_roles: Collection[str] = ("assistant",),
    unmask: bool = False,
    on_bad_line: OnBadLine = "error",
    num_processes: int = 1,
    advance: Callable[[int], None] = lambda _: None,
) -> PrepareSummary:
    """Tokenise conversations and write those of the right length, in their order.

    Args:
        source: lines of ``{"messages": [...]}``; ``"unmask": true`` or ``false`` on a line overrides ``unmask``. Blank
            lines are passed over.
        tokenizer: see `load_tokenizer`.
        output: file to write, all or nothing. Lines of ``input_ids``, ``labels``, ``len``, ``num_loss_counted_tokens``;
            if its name ends in ``.arrow``, see `trainers.data.arrow_file`.
        chat_template: file to use instead of the tokenizer's own template.
        min_len: fewest tokens of a conversation that is kept.
        max_len: tokens from which on a conversation is left out; None keeps all.
        trained_roles: roles whose messages carry loss.
        unmask: all but the system's messages carry loss.
        on_bad_line: ``error`` writes nothing if a line is bad; ``skip`` counts and logs them.
        num_processes: processes that share the work; the output is the same for any number.
        advance: called with the bytes worked through since its last call.

    Returns:
        How many conversations were kept and left out.

    Raises:
        ValueError: if a line is bad, which names file and line; if nothing is kept; if an argument is wrong; if pyarrow
            is needed and not installed.
        OSError: if a file cannot be read or written.
    """
    if min_len < 1 or (max_len is not None and max_len <= min_len):
        raise ValueError(f"min_len={min_len} must be at least 1 and below max_len={max_len}")
    template = None if chat_template is None else chat_template.read_text(encoding="utf-8")
    arrow = output.suffix == ".arrow"
    if arrow:
        import_pyarrow()  # refuses to begin without it
    settings = _Settings(str(tokenizer), template, min_len, max_len, tuple(trained_roles), unmask, arrow)
    _chat_tokenizer(settings)  # refuses a wrong one before any process starts
    blocks = blocks_of(source, _BLOCK_BYTES)
    bad_lines = BadLines(source, on_bad_line)
    summary = PrepareSummary()
    with (
        atomic_write(output) as file,
        arrow_writer(file) if arrow else nullcontext(file.write) as write,
        closing(map_in_processes(_prepare_block, [(settings, block) for block in blocks], num_processes)) as results,
    ):
        for block, prepared in zip(blocks, results, strict=True):
            bad_lines.add(prepared.num_lines, prepared.bad_lines)
            write(prepared.content)
            summary += prepared.summary
            advance(block.size)
        if not summary.kept:
            raise ValueError(f"{source}: no conversation is left to write: {summary}")
    bad_lines.close()
    return summary


@cache
def _chat_tokenizer(settings: _Settings) -> ChatTokenizer:
    """Once per process."""
    loaded = load_tokenizer(settings.tokenizer, settings.chat_template)
    return ChatTokenizer(loaded, settings.trained_roles, settings.unmask)


def _prepare_block(job: tuple[_Settings, FileBlock]) -> _Prepared:
    settings, block = job
    samples = []
    counts: Counter[str] = Counter()
    bad_lines = []
    number = 0
    for number, (_, line) in enumerate(block.lines(), start=1):
        if line.isspace():
            continue
        try:
            sample = _tokenize(line, _chat_tokenizer(settings))
        except ValueError as error:
            bad_lines.append((number, str(error)))
            continue
        verdict = _verdict(sample, settings)
        counts[verdict] += 1
        if verdict == "kept":
            samples.append(sample)
            counts["tokens"] += len(sample["input_ids"])
            counts["loss_tokens"] += sample["num_loss_counted_tokens"]
    content = encode_arrow(samples) if settings.arrow else _as_lines(samples)
    return _Prepared(content, PrepareSummary(**counts, bad_lines=len(bad_lines)), number, bad_lines)


def _verdict(sample: Sample, settings: _Settings) -> str:
    length = len(sample["input_ids"])
    if length < settings.min_len:
        return "too_short"
    if settings.max_len is not None and length >= settings.max_len:
        return "too_long"
    return "kept" if sample["num_loss_counted_tokens"] else "without_loss"


def _tokenize(line: bytes, tokenize: ChatTokenizer) -> Sample:
    conversation = parse_line(line)
    if not isinstance(conversation, dict) or "messages" not in conversation:
        start = line.strip()[:60].decode(errors="replace")
        raise ValueError(f"expected an object with 'messages', got {start!r}")
    unmask = conversation.get("unmask")
    if not isinstance(unmask, bool | None):
        raise ValueError(f"'unmask' must be true or false, got {unmask!r}")
    return tokenize(conversation["messages"], unmask)


def _as_lines(samples: Sequence[Sample]) -> bytes:
    rows = (
        {
            "input_ids": sample["input_ids"],
            "labels": sample["labels"],
            "len": len(sample["input_ids"]),
            "num_loss_counted_tokens": sample["num_loss_counted_tokens"],
        }
        for sample in samples
    )
    return b"".join(json.dumps(row, separators=(",", ":")).encode() + b"\n" for row in rows)
