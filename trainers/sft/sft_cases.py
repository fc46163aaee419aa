"""A training that takes a second: a tiny model's folder, some samples, and a callback that listens."""

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from testing.tiny_models.models import VOCABULARY, tiny_model
from testing.tiny_models.samples import random_samples
from trainers.data.jsonl_dataset import JsonlDataset
from trainers.data.minibatch import IGNORE_INDEX
from trainers.sft.callbacks import Callback, Record
from trainers.sft.config import TrainConfig
from trainers.sft.worker import Worker, backends_for

LENGTHS = [9, 2, 17, 5, 30, 11, 23, 8, 4, 14, 6, 19, 3]
"""Of the samples: uneven, and so many that the last batch of an epoch is short."""


def write_case(folder: Path, architecture: str = "llama_tied", **changes: Any) -> None:
    """Write ``model`` and ``data.jsonl`` into a folder."""
    tiny_model(architecture, **changes).save_pretrained(folder / "model")
    vocabulary = {f"<{token}>": token for token in range(VOCABULARY)}
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, "<0>")), pad_token="<0>", bos_token="<1>", eos_token="<2>"
    ).save_pretrained(folder / "model")
    with (folder / "data.jsonl").open("w") as file:
        for sample in random_samples(LENGTHS, VOCABULARY):
            file.write(json.dumps({name: tokens.tolist() for name, tokens in sample.items()}) + "\n")


def config_of(folder: Path, **changes: Any) -> TrainConfig:
    """Return a configuration for what `write_case` has written: batches of 5 samples, minibatches of 40 tokens."""
    values = {
        "model": folder / "model",
        "data": folder / "data.jsonl",
        "output": folder / "output",
        "batch_size": 5,
        "max_tokens_per_rank": 40,
        "learning_rate": 1e-2,
        "save_dtype": "float32",
        "compile": False,
        **changes,
    }
    if not {"epochs", "steps", "tokens", "infinite"} & values.keys():
        values["epochs"] = 2
    return TrainConfig.model_validate(values)


@torch.no_grad()
def mean_loss(model: PreTrainedModel, data: Path) -> Tensor:
    """Return the mean loss over all tokens of a file as one would write it on one page: 0-d, sample by sample."""
    samples = JsonlDataset(data)
    total, counted = torch.zeros(()), 0
    for sample in map(samples.__getitem__, range(len(samples))):
        logits = model(input_ids=sample["input_ids"][None]).logits[0, :-1]
        total += nn.functional.cross_entropy(logits, sample["labels"][1:], reduction="sum")
        counted += int((sample["labels"][1:] != IGNORE_INDEX).sum())
    return total / counted


def worker_of_test(device: torch.device) -> Worker:
    """Return the worker of a rank whose process group is there already."""
    group = dist.new_group(backend=backends_for(device.type))
    return Worker(
        dist.get_rank(),
        dist.get_world_size(),
        device,
        DeviceMesh.from_group(group, device.type, mesh_dim_names=("dp",)),
        dist.new_group(backend="gloo"),
    )


class Listener(Callback):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[Record] = []
        self.validations: list[Record] = []
        self.saves: list[tuple[str, int]] = []
        self.places: list[Path] = []
        self.resumed_at: int | None = None
        self.ended: str | None = None

    def on_resume(self, step: int, path: str) -> None:
        """Note the step."""
        self.resumed_at = step

    def on_step(self, record: Record) -> None:
        """Note a record."""
        self.steps.append(record)

    def on_validation(self, record: Record) -> None:
        """Note a record."""
        self.validations.append(record)

    def on_save(self, kind: str, step: int, path: str) -> None:
        """Note what, when and where."""
        self.saves.append((kind, step))
        self.places.append(Path(path))

    def on_train_end(self, progress: object, reason: str) -> None:
        """Note why."""
        self.ended = reason

    @property
    def losses(self) -> list[float]:
        """Of the steps."""
        return [record["loss"] for record in self.steps]


def whole_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of a model's whole parameters on the CPU; a collective if it is sharded."""
    return {
        name.removeprefix("module."): (
            parameter.full_tensor() if isinstance(parameter, DTensor) else parameter.detach()
        )
        .cpu()
        .clone()
        for name, parameter in model.named_parameters()
    }


def weights_of(folder: Path) -> dict[str, bytes]:
    """Return the contents of all files of weights in a folder, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}
