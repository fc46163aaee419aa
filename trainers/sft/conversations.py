"""Data that is still conversations is tokenised once, into the output folder."""

import dataclasses
import json
import os
from pathlib import Path

from trainers.checkpoint.ranks import Ranks
from trainers.data.preparation import prepare
from trainers.sft.config import TrainConfig

PREPARED = "data"
"""Folder in the output folder."""

_TOKENIZER_FILES = (".json", ".jinja", ".model", ".txt")


def tokenised(config: TrainConfig, ranks: Ranks) -> TrainConfig:
    """Return a configuration whose data are token ids; rank 0 makes them of conversations, once. A collective.

    Raises:
        CheckpointError: on every rank, if the conversations or the tokenizer are not what they must be.
    """
    made = ranks.first(
        lambda: {
            name: _prepared(config, path, config.output / PREPARED / f"{name}.jsonl")
            for name in ("data", "validation_data")
            if (path := getattr(config, name)) and _has_messages(path)
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


def _has_messages(path: Path) -> bool:
    """Whether the first line that is not blank is a conversation."""
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                try:
                    first = json.loads(line)
                except ValueError:
                    return False  # (whoever reads it as samples says where it is wrong)
                return isinstance(first, dict) and "messages" in first
    return False
