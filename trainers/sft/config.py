"""The one configuration of a training: read from a file and flags, checked, printed, and stored with the run."""

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml  # type: ignore[import-untyped]
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from trainers.attention.backends import Backend
from trainers.data.packing import Oversize, Strategy
from trainers.models.loss_kinds import Loss

CONFIG = "config.yaml"
"""File of the output folder: the whole configuration of the run."""

ARROW, BLOCKS = ".arrow", ".npy"
"""Ends of the names of data files that have no lines."""

_Options = Annotated[
    Mapping[str, Any], BeforeValidator(lambda value: json.loads(value) if isinstance(value, str) else value)
]


class TrainConfig(BaseModel):
    """Everything that decides what a training does; the defaults suit a small model on one machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Path = Field(description="Folder of a transformers model. With config.json alone, weights are drawn.")
    data: Path = Field(
        description="JSONL, lines with input_ids and labels or with messages; .arrow of the former; .npy of blocks."
    )
    output: Path = Field(description="Folder of the run: configuration, metrics, states, models.")
    tokenizer: Path | None = Field(None, description="Folder of the tokenizer. Default: the model's.")
    seed: NonNegativeInt = Field(0, description="Of the order of samples, drawn weights, dropout.")

    # How long; exactly one.
    epochs: PositiveInt | None = Field(None, description="Stop after so many passes over the data.")
    steps: PositiveInt | None = Field(None, description="Stop after so many optimizer steps.")
    tokens: PositiveInt | None = Field(None, description="Stop after so many tokens.")
    infinite: bool = Field(False, description="Stop when told to, by a signal.")

    # Data.
    batch_size: PositiveInt = Field(128, description="Samples between two optimizer steps, over all ranks.")
    max_tokens_per_rank: PositiveInt = Field(16384, description="Tokens that a rank computes at once.")
    max_seq_len: PositiveInt | None = Field(None, description="Leave out samples longer than this.")
    packing: Strategy = Field("best_fit", description="See docs/packing.md.")
    oversize: Oversize = Field("error", description="Refuse or drop samples above max_tokens_per_rank.")
    on_bad_line: Literal["error", "skip"] = Field("error", description="Refuse or skip lines that are no samples.")
    num_workers: NonNegativeInt = Field(1, description="Threads that prepare batches.")

    # Validation.
    validation_data: Path | None = Field(None, description="JSONL file to validate on.")
    validation_fraction: float = Field(0.0, ge=0, lt=1, description="Validate on this share of the data instead.")
    validate_every_steps: PositiveInt | None = Field(None, description="Validate every so many steps.")
    validate_every_samples: PositiveInt | None = Field(None, description="Validate every so many samples.")
    validate_every_epoch: bool = Field(False, description="Validate at the end of every epoch.")

    # Updates.
    optimizer: str = Field("adamw", description="adamw, muon or another of torch.optim.")
    optimizer_options: _Options = Field({}, description="Further arguments of the optimizer; as a flag, in JSON.")
    learning_rate: PositiveFloat = Field(2e-5, description="Peak learning rate.")
    weight_decay: NonNegativeFloat = Field(0.0, description="Of matrices.")
    max_grad_norm: PositiveFloat = Field(1.0, description="Gradients are clipped to this global norm.")
    schedule: str = Field("cosine", description="constant, linear, cosine, wsd or another of transformers.")
    schedule_options: _Options = Field({}, description="Further arguments of the schedule; as a flag, in JSON.")
    warmup_steps: NonNegativeInt = Field(0, description="Steps of linear warm-up.")

    # What is trained.
    lora_rank: NonNegativeInt = Field(0, description="Train adapters of this rank instead of the weights; 0: do not.")
    lora_alpha: PositiveInt = Field(32, description="Adapters are scaled by alpha / rank.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout in front of the adapters.")
    lora_targets: tuple[str, ...] | None = Field(None, description="Ends of names of layers that get adapters.")
    quantize: Literal["none", "nf4"] = Field(
        "none", description="nf4: the weights beneath the adapters in four bits (ddp; extra: bitsandbytes)."
    )
    osft_unfreeze: float | None = Field(None, ge=0, le=1, description="Train this share of directions (OSFT).")
    osft_targets: tuple[str, ...] | None = Field(None, description="Ends of names of layers that OSFT splits.")

    # How it is computed.
    framework: Literal["fsdp", "ddp", "deepspeed"] = Field(
        "fsdp", description="Shard the model over ranks (fsdp, deepspeed), or copy it to each."
    )
    zero_stage: int | None = Field(None, ge=2, le=3, description="Of deepspeed (extra: deepspeed). Default: 3.")
    ranks: PositiveInt | None = Field(None, description="Processes to start. Default: one per GPU; under torchrun its.")
    device: Literal["auto", "cpu", "gpu"] = Field("auto", description="Default: GPUs where there are some.")
    compute_dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="Default: bfloat16 on GPUs.")
    attention: Backend | Literal["auto"] = Field("auto", description="Backend of packed attention.")
    loss: Loss = Field("fused", description="fused, transformers or liger.")
    compile: bool | None = Field(None, description="torch.compile of each block. Default: on GPUs, unless quantized.")
    deterministic: bool = Field(
        False, description="The same bits in every run on GPUs, by slower kernels where it takes them."
    )
    activation_checkpointing: NonNegativeInt | Literal["auto", "full"] = Field(
        "auto", description="Blocks whose activations are computed anew: a number, full, or auto: as memory needs."
    )
    memory_limit_gb: PositiveFloat | None = Field(None, description="Of a GPU, for auto. Default: nine tenths of it.")
    cpu_offload: bool = Field(False, description="Keep parameters and optimizer in the host's memory (fsdp).")
    loading: Literal["rank0", "sharded"] = Field(
        "rank0", description="Rank 0 reads the weights and sends them, or every rank reads its part (fsdp)."
    )
    reshard_after_forward: bool = Field(
        True, description="Gather weights for each pass (fsdp). If not: faster, more memory."
    )

    # What is kept.
    save_every_steps: PositiveInt | None = Field(None, description="Full state to resume from, every so many steps.")
    save_every_samples: PositiveInt | None = Field(None, description="The same by samples.")
    save_every_epoch: bool = Field(False, description="A model and a full state at the end of every epoch.")
    save_best: bool = Field(False, description="The model of the best validation loss.")
    best_threshold: NonNegativeFloat = Field(0.0, description="Improvement below which a model is not saved anew.")
    save_dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="Of saved models.")
    keep_last: PositiveInt | None = Field(2, description="Full states that are kept.")
    resume: bool = Field(True, description="Go on from the newest full state in the output folder.")

    # What is shown.
    tensorboard: bool = Field(False, description="Write metrics for TensorBoard too (extra: tensorboard).")
    wandb: bool = Field(False, description="Write metrics to Weights & Biases, offline (extra: wandb).")

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        given = [name for name in ("epochs", "steps", "tokens", "infinite") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                f"how long to train: got {' and '.join(given) or 'nothing'}; give exactly one of epochs, steps, tokens "
                "and infinite"
            )
        return self

    def compiles_on(self, device_type: str) -> bool:
        """Whether blocks are compiled on ``cpu`` or ``cuda``."""
        if self.compile is None:
            return device_type == "cuda" and self.framework != "deepspeed" and self.quantize == "none"
        return self.compile


def read_config(file: Path | None, flags: Mapping[str, Any]) -> TrainConfig:
    """Make the configuration of a YAML or TOML file and of flags, which win.

    Args:
        file: ``.yaml``, ``.yml`` or ``.toml``: fields of `TrainConfig` at its top level.
        flags: fields by name.

    Raises:
        ValueError: if the file cannot be read, or a value is wrong; names every one.
    """
    values = {**(_read(file) if file else {}), **flags}
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'configuration'}: {each['msg'].removeprefix('Value error, ')}"
            + (f" (got {each['input']!r})" if each["loc"] and each["type"] != "missing" else "")
            for each in error.errors()
        )
        raise ValueError(f"{file or 'flags'}: {wrong}") from None


class _YamlLoader(yaml.SafeLoader):  # type: ignore[misc]  # (yaml has no types)
    """YAML 1.1, in which ``1e-5`` would be text, with the numbers of YAML 1.2."""


_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text()
        if file.suffix in (".yaml", ".yml"):
            values = yaml.load(text, _YamlLoader) or {}
        elif file.suffix == ".toml":
            values = tomllib.loads(text)
        else:
            raise ValueError(f"its name ends in {file.suffix!r}: write YAML (.yaml) or TOML (.toml)")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"configuration {file}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"configuration {file}: fields and values expected, got {type(values).__name__}")
    return values
