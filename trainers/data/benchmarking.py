"""What the benchmarks of this folder share: lengths to pack, peak memory, a table."""

import json
import os
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from trainers.data.token_lengths import token_lengths

EXAMPLE = Path(__file__).parent / "example"
LIMIT = 4096


def lengths_of(distribution: str, count: int, seed: int = 0, longest: int = LIMIT) -> list[int]:
    """Draw lengths of at most ``longest`` tokens: lognormal, uniform, or those of the shipped conversations."""
    rng = np.random.default_rng(seed)
    if distribution == "lognormal(6.3, 0.9)":
        drawn = np.clip(rng.lognormal(6.3, 0.9, count), 1, longest).astype(int)
    elif distribution == "uniform":
        drawn = rng.integers(1, longest + 1, count)
    else:
        assert distribution == "conversations"
        drawn = rng.choice(_lengths_of_conversations(), count)
    return [int(length) for length in drawn]


@cache
def _lengths_of_conversations() -> list[int]:
    tokenizer = Tokenizer.from_file(str(EXAMPLE / "tokenizer.json"))
    return token_lengths(EXAMPLE / "conversations.jsonl", tokenizer)


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Return the shortest wall time of ``repeats`` calls: the one that other programs disturbed least."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_bytes(function: Callable[[], object]) -> int:
    """Return by how much a call raises the resident memory of this process at its highest (Linux)."""

    def resident(kind: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(kind))

    Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
    before = resident("VmRSS")
    function()
    return max(resident("VmHWM") - before, 0)


def report(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows as a Markdown table and write them as NAME.json to the outputs of the test, if there are any."""
    heads = list(rows[0])
    print(f"\n{name}\n")
    for line in (heads, ["---"] * len(heads), *([str(row[head]) for head in heads] for row in rows)):
        print(f"| {' | '.join(line)} |")
    folder = os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR")
    if folder:
        Path(folder, f"{name}.json").write_text(json.dumps(list(rows), indent=1))
