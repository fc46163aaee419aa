"""Options that exclude each other: refused at the start with the names of both, never ignored."""

from collections.abc import Iterator
from importlib.util import find_spec

from trainers.models.model_folder import has_weights
from trainers.sft.config import TrainConfig

_EXTRAS = (
    ("tensorboard", True, "tensorboard"),
    ("wandb", True, "wandb"),
    ("quantize", "nf4", "bitsandbytes"),
    ("loss", "liger", "liger-kernel"),
    ("framework", "deepspeed", "deepspeed"),
)
"""Options with the values that need a package, and which."""


def check_options_compatible(config: TrainConfig, device_type: str) -> None:
    """Check what no single field can say.

    Args:
        config: what was asked for.
        device_type: ``cpu`` or ``cuda``, where it is to run.

    Raises:
        ValueError: with every reason, each naming both options.
    """
    reasons = list(_conflicts(config, device_type))
    if reasons:
        raise ValueError("options that do not go together: " + "; ".join(reasons))


def _conflicts(config: TrainConfig, device_type: str) -> Iterator[str]:
    if config.lora_rank and config.osft_unfreeze is not None:
        yield f"lora_rank={config.lora_rank} and osft_unfreeze={config.osft_unfreeze}: each decides what is trained"
    if (config.lora_targets or config.lora_dropout) and not config.lora_rank:
        yield "lora_targets or lora_dropout without lora_rank: all weights would be trained"
    if config.osft_targets and config.osft_unfreeze is None:
        yield "osft_targets without osft_unfreeze: all weights would be trained"
    if config.quantize != "none":
        if not config.lora_rank:
            yield f"quantize={config.quantize} without lora_rank: what is in four bits is frozen, adapters are trained"
        if config.framework == "fsdp":
            yield f"quantize={config.quantize} and framework=fsdp: scales are not sharded with their weights; use ddp"
    if config.loading == "sharded":
        if config.lora_rank or config.osft_unfreeze is not None:
            yield "loading=sharded and lora_rank or osft_unfreeze: they are made out of whole weights"
        if not has_weights(config.model):
            yield f"loading=sharded and model={config.model}: it has no safetensors to read"
    if config.optimizer == "muon" and config.osft_unfreeze == 0 and config.osft_targets is None:
        yield "optimizer=muon and osft_unfreeze=0.0: the matrices that Muon trains are frozen"
    if config.framework != "fsdp":
        if config.loading == "sharded":
            yield f"framework={config.framework} and loading=sharded: each rank reads all weights"
        if config.cpu_offload:
            yield f"framework={config.framework} and cpu_offload: only fsdp offloads"
        if not config.reshard_after_forward:
            yield f"framework={config.framework} and reshard_after_forward=False: only fsdp keeps gathered weights"
    yield from _conflicts_of_deepspeed(config)
    if config.validation_data and config.validation_fraction:
        yield "validation_data and validation_fraction: validate on one of them"
    scheduled = [
        name
        for name in ("validate_every_steps", "validate_every_samples", "validate_every_epoch", "save_best")
        if getattr(config, name)
    ]
    if scheduled and not (config.validation_data or config.validation_fraction):
        yield f"{', '.join(scheduled)} without validation_data or validation_fraction: there is nothing to validate on"
    if not {*scheduled} - {"save_best"}:
        for name in ("validation_data", "validation_fraction", "save_best"):
            if getattr(config, name):
                yield f"{name} without validate_every_steps, _samples or _epoch: it is never validated"
    if config.infinite and config.schedule not in ("constant", "constant_with_warmup", "inverse_sqrt"):
        yield f"infinite and schedule={config.schedule}: it needs an end; use constant or inverse_sqrt"
    if config.steps and config.warmup_steps > config.steps:
        yield f"steps={config.steps} and warmup_steps={config.warmup_steps}: the warm-up would not end"
    if config.packing == "padded" and config.attention != "auto":
        yield f"packing=padded and attention={config.attention}: padded rows are attended by transformers' own sdpa"
    if device_type == "cpu":
        if config.device == "gpu":
            yield "device=gpu and this machine: torch finds no GPU here"
        if config.loss == "liger":
            yield "loss=liger and device=cpu: Liger's kernels run on GPUs"
        if config.attention not in ("auto", "sdpa"):
            yield f"attention={config.attention} and device=cpu: its kernels run on GPUs; use sdpa"
        if config.cpu_offload:
            yield "cpu_offload and device=cpu: everything is in the host's memory already"
    for option, value, package in _EXTRAS:
        if getattr(config, option) == value and not find_spec(package.replace("-", "_")):
            yield f"{option}={value} and this environment: the extra package {package} is not installed"


def _conflicts_of_deepspeed(config: TrainConfig) -> Iterator[str]:
    if config.framework != "deepspeed":
        if config.zero_stage:
            yield f"framework={config.framework} and zero_stage={config.zero_stage}: only deepspeed has stages"
        return
    if config.lora_rank:
        yield f"framework=deepspeed and lora_rank={config.lora_rank}: it would round the frozen weights; use fsdp"
    if config.osft_unfreeze is not None:
        yield f"framework=deepspeed and osft_unfreeze={config.osft_unfreeze}: projections need gradients; use fsdp"
    if config.optimizer == "muon":
        yield "framework=deepspeed and optimizer=muon: it needs matrices, shards of ZeRO are flat; use fsdp"
    if config.compile:
        yield "framework=deepspeed and compile: blocks would be compiled around its hooks; use fsdp"
