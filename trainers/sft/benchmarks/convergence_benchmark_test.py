"""Our trainer and the Trainer of transformers teach a small model the same task from the same weights: who learns what.

The task is to write numbers in digits: "forty thousand six" is 40006. A Llama drawn at random sees 4,000 of the numbers
below a million as conversations; it is asked others, answers greedily, and an answer counts if every digit is right.
Each trainer runs as its users run it, in a process of its own: conversations, token ids, training, and folders that
transformers loads and that are asked.
"""

import json
import os
import random
import resource
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Digits, WhitespaceSplit
from tokenizers.pre_tokenizers import Sequence as Both
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trainers.data.benchmarking import report
from trainers.data.jsonl_dataset import JsonlDataset
from trainers.data.preparation import prepare
from trainers.data.sampler import epoch_order

SEEN, ASKED = 4000, 250
BATCH_SIZE = 50
EPOCHS = 4
STEPS_OF_EPOCH = SEEN // BATCH_SIZE
LEARNING_RATE = "3e-3"
WARMUP_STEPS = 20

# fmt: off
UNITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
         "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
# fmt: on
TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def in_words(number: int) -> str:
    """``in_words(40006) == "forty thousand six"``."""
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if number >= size:
            rest = f" {in_words(number % size)}" if number % size else ""
            return f"{in_words(number // size)} {name}{rest}"
    if number < 20:
        return UNITS[number]
    return TENS[number // 10 - 2] + (f" {UNITS[number % 10]}" if number % 10 else "")


def write_task(folder: Path) -> list[int]:
    """Write ``model``, ``conversations.jsonl``, ``data.jsonl`` (token ids) and ``rows.pt``; return numbers to ask."""
    words = ["<unknown>", *UNITS, *TENS, "hundred", "thousand", *map(str, range(10))]
    tokenizer = Tokenizer(WordLevel({word: at for at, word in enumerate(words)}, "<unknown>"))
    tokenizer.pre_tokenizer = Both([WhitespaceSplit(), Digits(individual_digits=True)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<end>",
        additional_special_tokens=["<user>", "<assistant>"],
        chat_template=TEMPLATE,
    )
    fast.save_pretrained(folder / "model")
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=48,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            pad_token_id=fast.pad_token_id,
            eos_token_id=fast.eos_token_id,
            bos_token_id=None,
        )
    ).save_pretrained(folder / "model")
    numbers = random.Random(0).sample(range(1_000_000), SEEN + ASKED)
    with (folder / "conversations.jsonl").open("w") as file:
        for number in numbers[:SEEN]:
            answer = {"role": "assistant", "content": str(number)}
            file.write(json.dumps({"messages": [{"role": "user", "content": in_words(number)}, answer]}) + "\n")
    prepare(folder / "conversations.jsonl", folder / "model", folder / "data.jsonl", min_len=1)
    samples = JsonlDataset(folder / "data.jsonl")
    order = [at for epoch in range(EPOCHS) for at in epoch_order(SEEN, 0, epoch).tolist()]
    lists = [{name: samples[at][name].tolist() for name in ("input_ids", "labels")} for at in order]
    torch.save([lists[at : at + BATCH_SIZE] for at in range(0, len(lists), BATCH_SIZE)], folder / "rows.pt")
    return numbers[SEEN:]


@torch.no_grad()
def accuracy(folder: Path, numbers: Sequence[int]) -> float:
    """Share of numbers that the model in a folder writes right, digit by digit."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    same_length: dict[int, list[tuple[list[int], int]]] = defaultdict(list)
    for number in numbers:
        question = [{"role": "user", "content": in_words(number)}]
        ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=True)["input_ids"]
        same_length[len(ids)].append((ids, number))
    right = 0
    for length, group in same_length.items():
        asked = torch.tensor([ids for ids, _ in group])
        answers = model.generate(asked, attention_mask=torch.ones_like(asked), max_new_tokens=8, do_sample=False)
        for answer, (_, number) in zip(answers[:, length:], group, strict=True):
            right += tokenizer.decode(answer, skip_special_tokens=True).replace(" ", "") == str(number)
    return right / len(numbers)


def run(*command: str) -> float:
    """Run a module to its end; return its CPU time in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-m", *command], check=True, env={**os.environ, **environment}, stdout=subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def ours(task: Path, output: Path) -> float:
    return run(
        "trainers.sft.command_line",
        "train",
        *("--model", str(task / "model"), "--data", str(task / "data.jsonl"), "--output", str(output)),
        *("--epochs", str(EPOCHS), "--batch-size", str(BATCH_SIZE), "--max-tokens-per-rank", "2048"),
        *("--learning-rate", LEARNING_RATE, "--warmup-steps", str(WARMUP_STEPS)),
        *("--save-every-epoch", "--save-dtype", "float32", "--keep-last", "1"),
    )


def hugging_face(task: Path, output: Path) -> float:
    output.mkdir()
    arguments = {
        "num_train_epochs": 1,  # (all epochs lie in the file)
        "learning_rate": float(LEARNING_RATE),
        "lr_scheduler_type": "cosine",
        "warmup_steps": WARMUP_STEPS,
        "save_strategy": "steps",
        "save_steps": STEPS_OF_EPOCH,
        "use_cpu": True,
    }
    config = {"model": str(task / "model"), "rows": str(task / "rows.pt"), "output": str(output)}
    (output / "config.json").write_text(json.dumps({**config, "arguments": arguments}))
    return run("trainers.sft.benchmarks.hugging_face_trainer", str(output / "config.json"))


TRAINERS = {
    "ours": (ours, "metrics.jsonl", "models/step-{:010d}"),
    "Hugging Face Trainer": (hugging_face, "losses.jsonl", "checkpoint-{}"),
}


def losses(path: Path) -> list[float]:
    records = map(json.loads, path.read_text().splitlines())
    return [record["loss"] for record in records if record.get("kind", "step") == "step"]


def test_both_learn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = write_task(tmp_path)
    rows: list[dict[str, Any]] = []
    curves = {}
    for name, (train, log, checkpoint) in TRAINERS.items():
        output = tmp_path / name
        seconds = train(tmp_path, output)
        steps = [STEPS_OF_EPOCH * epoch for epoch in range(1, EPOCHS + 1)]
        right = [accuracy(output / checkpoint.format(step), asked) for step in steps]
        curves[name] = (losses(output / log), steps, right)
        row = {"trainer": name, "CPU s": f"{seconds:.0f}", "loss of the last epoch": ""}
        row["loss of the last epoch"] = f"{sum(curves[name][0][-STEPS_OF_EPOCH:]) / STEPS_OF_EPOCH:.4f}"
        rows.append(
            row | {f"right after step {step}": f"{share:.1%}" for step, share in zip(steps, right, strict=True)}
        )
    with capsys.disabled():
        report("convergence", rows)
    folder = os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR")
    if folder:
        draw(curves, Path(folder) / "convergence.svg")
    for _, _, right in curves.values():
        assert right[-1] > 0.9


def draw(curves: dict[str, tuple[list[float], list[int], list[float]]], path: Path) -> None:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    loss, share = figure.subplots(1, 2)
    for (name, (values, steps, right)), style in zip(curves.items(), ("-", "--"), strict=True):
        loss.plot(range(1, len(values) + 1), values, style, label=name)
        share.plot(steps, [100 * each for each in right], style, marker="o", label=name)
    loss.set(xlabel="step", ylabel="training loss (nats per token)", yscale="log")
    share.set(xlabel="step", ylabel="held-out numbers right (%)", ylim=(0, 102))
    for axes in (loss, share):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path)
