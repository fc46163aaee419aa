"""Tokens per second, memory and time to the first step of our trainer, mini_trainer and the Trainer of transformers.

Each trainer is started as its users start it, by torch.distributed.run, on the same weights and the same samples in the
same order, and timed by the same stopwatch: from the end of an optimizer step to the end of the next one, so that data,
logging and all else that a trainer does between steps count. Run some of the rows with ``-k ours`` or ``-k hf``.

On a CPU a tiny model shows that the benchmark itself works; its numbers say little.
"""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trainers.data.benchmarking import report
from trainers.data.sampler import epoch_order
from trainers.sft.benchmarks.bars import bars

HARDWARE = os.environ["TRAINYARD_HARDWARE"]
RANKS = int(os.environ.get("TRAINYARD_DEVICES", "1"))
GPU = HARDWARE == "gpu"

STEPS = 12
SKIPPED = 2  # first steps that are not timed: compilation, autotuning, allocation
LAST = STEPS + 2  # a trainer may log a step's loss one step later
SAVE_EVERY = 6
LEARNING_RATE = "1e-4" if GPU else "1e-2"
LIMIT_S = 150  # of a row


@dataclass(frozen=True)
class Task:
    llama: dict[str, Any]
    samples: int
    batch_size: int
    tokens: int  # of a rank's minibatch
    mean: float  # of the logarithm of lengths
    longest: int
    memory_gb: int


TASK = (
    Task(
        dict(
            vocab_size=32000,
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=16,
            num_attention_heads=32,
            num_key_value_heads=8,
            max_position_embeddings=8192,
        ),
        samples=6000,
        batch_size=128,
        tokens=16384,
        mean=6.3,
        longest=8000,
        memory_gb=21,
    )
    if GPU
    else Task(
        dict(
            vocab_size=512,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
        ),
        samples=400,
        batch_size=16,
        tokens=1024,
        mean=4.0,
        longest=500,
        memory_gb=21,
    )
)


@dataclass(frozen=True)
class Files:
    """What all trainers read."""

    folder: Path
    lengths: list[int]

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def data(self) -> Path:
        return self.folder / "data.jsonl"

    @property
    def rows(self) -> Path:
        return self.folder / "rows.pt"

    def batch(self, step: int) -> list[int]:
        """Indices of the samples of a step, counted from 0."""
        order = epoch_order(len(self.lengths), 0, 0).tolist()
        return order[step * TASK.batch_size : (step + 1) * TASK.batch_size]

    def tokens(self, step: int) -> int:
        return sum(self.lengths[index] for index in self.batch(step))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("throughput")
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TASK.llama, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2))
    model.save_pretrained(folder / "model")
    vocabulary = {f"<{token}>": token for token in range(TASK.llama["vocab_size"])}
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, "<0>")), pad_token="<0>", bos_token="<1>", eos_token="<2>"
    ).save_pretrained(folder / "model")
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(TASK.mean, 0.9, TASK.samples), 32, TASK.longest).astype(int).tolist()
    files = Files(folder, lengths)
    samples = [_sample(rng, length) for length in lengths]
    files.data.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    torch.save([[samples[index] for index in row] for row in _rows(files)], files.rows)
    return files


def _sample(rng: np.random.Generator, length: int) -> dict[str, Any]:
    """Some tokens are far more frequent than others: a model that trains learns that within a few steps."""
    ids = (3 + (TASK.llama["vocab_size"] - 3) * rng.random(length) ** 3).astype(int).tolist()
    masked = length // 3
    return {"input_ids": ids, "labels": [-100] * masked + ids[masked:]}


def _rows(files: Files) -> list[list[int]]:
    """Microbatches for transformers' Trainer: the samples of each step in as few rows as suffice in every step.

    Its steps have one number of microbatches, so rows are filled evenly instead of to the brim.
    """
    for count in itertools.count(RANKS, RANKS):
        steps = [_evenly(files.batch(step), files.lengths, count) for step in range(LAST)]
        if all(sum(files.lengths[index] for index in row) <= TASK.tokens for rows in steps for row in rows):
            return [row for rows in steps for row in rows]
    raise AssertionError


def _evenly(batch: Sequence[int], lengths: Sequence[int], count: int) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for index in sorted(batch, key=lambda index: -lengths[index]):
        least = loads.index(min(loads))
        rows[least].append(index)
        loads[least] += lengths[index]
    return rows


Command = list[str]
"""A module and its arguments."""


def ours(files: Files, output: Path, *options: str) -> Command:
    return [
        "trainers.sft.command_line",
        "train",
        *("--model", str(files.model), "--data", str(files.data), "--output", str(output)),
        *("--batch-size", str(TASK.batch_size), "--max-tokens-per-rank", str(TASK.tokens)),
        *("--steps", str(LAST), "--schedule", "constant", "--learning-rate", LEARNING_RATE),
        *("--ranks", str(RANKS)),
        *options,
    ]


def mini_trainer(files: Files, output: Path) -> Command:
    return [
        "mini_trainer.train",
        *("--model-name-or-path", str(files.model), "--data-path", str(files.data), "--output-dir", str(output)),
        *("--batch-size", str(TASK.batch_size), "--max-tokens-per-gpu", str(TASK.tokens)),
        *("--training-mode", "step", "--max-steps", str(LAST), "--learning-rate", LEARNING_RATE),
        *("--lr-scheduler", "constant", "--seed", "0", "--use-liger-kernels"),
    ]


def hugging_face(files: Files, output: Path, **arguments: Any) -> Command:
    rows_of_step = len(torch.load(files.rows)) // LAST
    config = {
        "model": str(files.model),
        "rows": str(files.rows),
        "output": str(output),
        "attention": "flash_attention_2" if GPU else "sdpa",
        "arguments": {
            "gradient_accumulation_steps": rows_of_step // RANKS,
            "max_steps": LAST,
            "learning_rate": float(LEARNING_RATE),
            "lr_scheduler_type": "constant",
            "bf16": GPU,
            "use_cpu": not GPU,
            **arguments,
        },
    }
    path = output / "config.json"
    path.write_text(json.dumps(config))
    return ["trainers.sft.benchmarks.hugging_face_trainer", str(path)]


@dataclass(frozen=True)
class Variant:
    """One row.

    Attributes:
        name: in the table.
        command: what runs it.
        losses: its file of the losses of steps, JSON lines.
        launcher: whether it wants torch.distributed.run for a single rank too.
        on_cpu: whether it runs on a CPU.
        saves: whether it saves its state every few steps.
        environment: variables that help it.
    """

    name: str
    command: Callable[[Files, Path], Command]
    losses: str = "metrics.jsonl"
    launcher: bool = False
    on_cpu: bool = True
    saves: bool = False
    environment: tuple[tuple[str, str], ...] = ()


ONE_POOL = (("PYTORCH_ALLOC_CONF", "expandable_segments:True"),)
"""Rows of unlike sizes leave fewer gaps in memory: the stock Trainer keeps all activations and logits."""

KEEPING = ("--no-reshard-after-forward",)
LIMITED = ("--memory-limit-gb", str(TASK.memory_gb))
FLASH_ATTN_4 = ("--attention", "flash_attn_4")


def of_ours(name: str, *options: str, on_cpu: bool = True, saves: bool = False) -> Variant:
    return Variant(name, lambda files, output: ours(files, output, *options), on_cpu=on_cpu, saves=saves)


VARIANTS = {
    "ours": of_ours("ours", *KEEPING),
    "ours_flash_attn_4": of_ours("ours, flash-attn 4", *KEEPING, *FLASH_ATTN_4, on_cpu=False),
    "ours_deterministic": of_ours("ours, deterministic", *KEEPING, "--deterministic"),
    "ours_saving": of_ours(
        f"ours, a state saved every {SAVE_EVERY} steps",
        *KEEPING,
        *("--save-every-steps", str(SAVE_EVERY), "--keep-last", "1"),
        saves=True,
    ),
    "ours_limited": of_ours(f"ours within {TASK.memory_gb} GB", *LIMITED),
    "ours_limited_flash_attn_4": of_ours(
        f"ours within {TASK.memory_gb} GB, flash-attn 4", *LIMITED, *FLASH_ATTN_4, on_cpu=False
    ),
    "mini_trainer": Variant(
        "mini_trainer, Liger", mini_trainer, losses="training_metrics_0.jsonl", launcher=True, on_cpu=False
    ),
    "hf_liger": Variant(
        "Hugging Face Trainer, Liger",
        lambda files, output: hugging_face(files, output, use_liger_kernel=True),
        losses="losses.jsonl",
        on_cpu=False,
        environment=ONE_POOL,
    ),
    "hf": Variant("Hugging Face Trainer", hugging_face, losses="losses.jsonl", environment=ONE_POOL),
}


@dataclass(frozen=True)
class Measured:
    """What the stopwatch and the log of a trainer say."""

    start_up: float
    seconds: list[float]  # from the end of step i + 1 to the end of the next
    peak_gb: list[float]
    losses: list[float]


class Table:
    """Measured rows, those of this run."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self.measured: dict[str, Measured] = {}

    def rows(self) -> list[dict[str, Any]]:
        return [self._row(key, each) for key, each in self.measured.items()]

    def _row(self, key: str, measured: Measured) -> dict[str, Any]:
        tokens = sum(map(self._files.tokens, range(SKIPPED, STEPS)))
        return {
            "trainer": VARIANTS[key].name,
            "ranks": RANKS,
            "tokens/s": round(tokens / sum(measured.seconds[SKIPPED - 1 : STEPS - 1])),
            "peak memory of steps, GB": round(max(measured.peak_gb[1:]), 1),
            "of the start, GB": round(measured.peak_gb[0], 1),
            "start to end of first step, s": round(measured.start_up, 1),
            **{f"loss of step {step}": round(measured.losses[step - 1], 3) for step in (1, STEPS)},
            "held up by saves, s": self._stalls(key, measured),
        }

    def _stalls(self, key: str, measured: Measured) -> str:
        """How much longer the steps after saves took than the same steps without."""
        if not VARIANTS[key].saves or "ours" not in self.measured:
            return "-"
        pairs = list(zip(measured.seconds, self.measured["ours"].seconds, strict=True))
        return ", ".join(f"{saving - plain:.2f}" for saving, plain in pairs[SAVE_EVERY - 1 :: SAVE_EVERY])


@pytest.fixture(scope="module")
def table(files: Files, request: pytest.FixtureRequest) -> Iterator[Table]:
    table = Table(files)
    yield table
    if table.measured:
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            _keep(f"throughput_{HARDWARE}_x{RANKS}", table)


def _keep(name: str, table: Table) -> None:
    device = torch.cuda.get_device_name() if GPU else "CPU"
    print(f"\n{RANKS} x {device}, torch {torch.__version__}, transformers {transformers.__version__}")
    rows = table.rows()
    report(name, rows)
    folder = os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR")
    if folder:
        Path(folder, f"{name}.svg").write_text(bars("trainer", ("tokens/s", "peak memory of steps, GB"), rows))
        steps = {key: vars(measured) for key, measured in table.measured.items()}
        Path(folder, f"{name}_steps.json").write_text(json.dumps(steps))


@pytest.mark.parametrize("key", [key for key, variant in VARIANTS.items() if GPU or variant.on_cpu])
def test_throughput(key: str, files: Files, table: Table, tmp_path: Path) -> None:
    variant = VARIANTS[key]
    result = tmp_path / "stopwatch.json"
    output = tmp_path / "output"
    output.mkdir()
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS), "-m"]
    stopwatch = ["trainers.sft.benchmarks.stopwatch", str(result), str(LAST), *variant.command(files, output)]
    try:
        _run([*(launcher if variant.launcher or RANKS > 1 else []), *stopwatch], tmp_path, dict(variant.environment))
        measured = Measured(losses=_losses(output / variant.losses), **json.loads(result.read_text()))
    finally:
        shutil.rmtree(output)  # (a state takes 12 GB)
    table.measured[key] = measured
    first = next(iter(table.measured.values()))
    assert measured.losses == pytest.approx(first.losses, rel=0.01), "not the same training as the first row's"


def _run(command: Command, folder: Path, environment: Mapping[str, str]) -> None:
    """Run a module to its end, its caches empty; its last words are the reason if it fails."""
    log = folder / "log"
    common = {
        "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path),
        "HF_HOME": str(folder / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "4" if GPU else "1",
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "TRITON_CACHE_DIR": str(folder / "triton"),
    }
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **common, **environment},
            start_new_session=True,
        )
        try:
            ended = f"ended with {process.wait(LIMIT_S)}"
        except subprocess.TimeoutExpired:
            ended = f"still ran after {LIMIT_S} s"
        finally:
            _end_group(process)
    if ended != "ended with 0":
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-60:])
        pytest.fail(f"{' '.join(command)}\n{ended}:\n{tail}", pytrace=False)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _losses(path: Path) -> list[float]:
    """Of steps 1 to 12, from what a trainer logs."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    losses = {record["step"]: float(record["loss"]) for record in records if "loss" in record}
    return [losses[step] for step in range(1, STEPS + 1)]
