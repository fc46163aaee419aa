"""Data that is still conversations is tokenised once, into the output folder."""

import dataclasses
import json
import os
from pathlib import Path

from trainers.data.json_line import parse_line
from trainers.data.jsonl_blocks import OnBadLine
from trainers.data.preparation import prepare
from trainers.parallel.ranks import Ranks
from trainers.sft.config import ARROW, BLOCKS, TrainConfig

PREPARED = "data"
"""Folder in the output folder."""

_TOKENIZER_FILES = (".json", ".jinja", ".model", ".txt")


def tokenised(config: TrainConfig, ranks: Ranks) -> TrainConfig:
    """Return a configuration whose data are token ids; rank 0 makes them of conversations, once. A collective.

    Raises:
        RankError: on every rank, if the conversations or the tokenizer are not what they must be.
    """
    made = ranks.first(
        lambda: {
            name: _prepared(config, path, config.output / PREPARED / f"{name}.jsonl")
            for name in ("data", "validation_data")
            if (path := getattr(config, name)) and _are_conversations(path, config.on_bad_line)
        }
    )
    return config.model_copy(update=made)


def _prepared(config: TrainConfig, source: Path, target: Path) -> Path:
    # What the result depends on, beside it: other conversations or another tokenizer make it anew.
    made_of = target.with_suffix(".source.json")
    tokenizer = config.tokenizer or config.model
    wanted = json.dumps(
        {
            "source": _facts(source),
            "tokenizer": [_facts(path) for path in sorted(tokenizer.glob("*")) if path.suffix in _TOKENIZER_FILES],
            "max_seq_len": config.max_seq_len,
            "on_bad_line": config.on_bad_line,
        }
    )
    if target.exists() and made_of.exists() and made_of.read_text() == wanted:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    made_of.unlink(missing_ok=True)
    summary = prepare(
        source,
        tokenizer,
        target,
        max_len=config.max_seq_len and config.max_seq_len + 1,
        on_bad_line=config.on_bad_line,
        num_processes=os.cpu_count() or 1,
    )
    target.with_suffix(".summary.json").write_text(json.dumps(dataclasses.asdict(summary)))
    made_of.write_text(wanted)  # (last: torn or absent, everything is made anew)
    return target


def _facts(path: Path) -> list[str | int]:
    """Of a file, what changes when it does."""
    facts = path.stat()
    return [str(path), facts.st_size, facts.st_mtime_ns]


def _are_conversations(path: Path, on_bad_line: OnBadLine) -> bool:
    """Whether a file is one of conversations, by the first line that is either kind, or bad and not to be skipped."""
    if path.suffix in (ARROW, BLOCKS):
        return False
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.isspace():
                continue
            try:
                return _is_conversation(line)
            except ValueError as error:
                if on_bad_line == "error":
                    raise ValueError(
                        f'{path}:{number}: {error}; a line is a conversation, {{"messages": [...]}}, or a sample, '
                        '{"input_ids": [...], "labels": [...]} (on_bad_line=\'skip\' leaves other lines out)'
                    ) from error
    return False  # (whoever reads it as samples says that it has none)


def _is_conversation(line: bytes) -> bool:
    found = parse_line(line)
    if isinstance(found, dict) and found.keys() & {"messages", "input_ids"}:
        return "messages" in found
    raise ValueError(f"neither 'messages' nor 'input_ids' in {line.strip()[:60].decode(errors='replace')!r}")
