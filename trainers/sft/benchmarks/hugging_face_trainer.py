"""Fine-tunes with the Trainer of transformers: what a benchmark runs beside ours.

    python -m trainers.sft.benchmarks.hugging_face_trainer CONFIG.json

Fields of the file: ``model``, a folder with tokenizer; ``rows``, a file of `torch.save` with a list of microbatches,
each a list of samples; ``output``, a folder; ``arguments``, further ones of ``TrainingArguments``; ``attention``, the
implementation.

Weights are fp32, with ``bf16`` computed under autocast. The samples of a microbatch are laid end to end without padding
(``DataCollatorWithFlattening``) with their bounds for flash attention. ``losses.jsonl`` in the output folder gets the
loss of each step.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler, SequentialSampler
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorWithFlattening,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

Row = list[dict[str, list[int]]]


class InOrder(Trainer):
    """Takes the microbatches in the order of the file."""

    def _get_train_sampler(self, *_: Any) -> Sampler[int]:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]


class Losses(TrainerCallback):
    """Writes the loss of each step."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Append one line."""
        if state.is_world_process_zero and logs and "loss" in logs:
            with self._path.open("a") as file:
                file.write(json.dumps({"step": state.global_step, "loss": float(logs["loss"])}) + "\n")


def fine_tune(
    model: str, rows: str, output: str, attention: str = "sdpa", arguments: dict[str, Any] | None = None
) -> None:
    """Train on all rows."""
    flash = attention.startswith("flash")
    flatten = DataCollatorWithFlattening(return_flash_attn_kwargs=flash)  # type: ignore[no-untyped-call]

    def collate(features: list[Row]) -> dict[str, Any]:
        (row,) = features
        return flatten(row)  # type: ignore[no-any-return]

    defaults = {
        "per_device_train_batch_size": 1,
        "remove_unused_columns": False,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1,
        "disable_tqdm": True,
        "adam_beta2": 0.95,
    }
    trainer = InOrder(
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation=attention),
        TrainingArguments(output, **{**defaults, **(arguments or {})}),
        data_collator=collate,
        processing_class=AutoTokenizer.from_pretrained(model),
        train_dataset=torch.load(rows),
        callbacks=[Losses(Path(output) / "losses.jsonl")],
    )
    trainer.train()


if __name__ == "__main__":
    fine_tune(**json.loads(Path(sys.argv[1]).read_text()))
