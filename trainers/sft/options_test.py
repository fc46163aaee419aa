import pytest

from trainers.sft import options
from trainers.sft.config import TrainConfig
from trainers.sft.options import check_options_compatible


def config(**changes):
    values = {"model": "m", "data": "d.jsonl", "output": "o", **changes}
    if not {"epochs", "steps", "tokens", "infinite"} & values.keys():
        values["epochs"] = 1
    return TrainConfig.model_validate(values)


CONFLICTS = [
    ({"lora_rank": 4, "osft_unfreeze": 0.0}, "cpu", ("lora_rank=4", "osft_unfreeze=0.0")),
    ({"lora_targets": ["q_proj"]}, "cpu", ("lora_targets", "without lora_rank")),
    ({"lora_dropout": 0.1}, "cpu", ("lora_dropout", "without lora_rank")),
    ({"osft_targets": ["q_proj"]}, "cpu", ("osft_targets", "without osft_unfreeze")),
    ({"quantize": "nf4"}, "cpu", ("quantize=nf4", "lora_rank")),
    ({"quantize": "nf4", "lora_rank": 4}, "cpu", ("quantize=nf4", "framework=fsdp")),
    ({"loading": "sharded", "lora_rank": 4}, "cpu", ("loading=sharded", "lora_rank")),
    ({"loading": "sharded", "osft_unfreeze": 0.5}, "cpu", ("loading=sharded", "osft_unfreeze")),
    ({"loading": "sharded"}, "cpu", ("loading=sharded", "model=m")),
    ({"loading": "sharded", "framework": "ddp"}, "cpu", ("loading=sharded", "framework=ddp")),
    ({"framework": "ddp", "cpu_offload": True}, "cuda", ("framework=ddp", "cpu_offload")),
    ({"framework": "ddp", "reshard_after_forward": False}, "cpu", ("framework=ddp", "reshard_after_forward=False")),
    ({"zero_stage": 3}, "cpu", ("framework=fsdp", "zero_stage=3")),
    ({"framework": "deepspeed", "loading": "sharded"}, "cpu", ("framework=deepspeed", "loading=sharded")),
    ({"framework": "deepspeed", "compile": True}, "cuda", ("framework=deepspeed", "compile")),
    ({"validation_data": "v", "validation_fraction": 0.1}, "cpu", ("validation_data", "validation_fraction")),
    ({"validate_every_steps": 1}, "cpu", ("validate_every_steps", "validation_data")),
    ({"validate_every_samples": 1}, "cpu", ("validate_every_samples", "validation_data")),
    ({"validate_every_epoch": True}, "cpu", ("validate_every_epoch", "validation_data")),
    ({"save_best": True, "validation_fraction": 0.1}, "cpu", ("save_best", "validate_every_steps")),
    ({"validation_fraction": 0.1}, "cpu", ("validation_fraction", "validate_every_steps")),
    ({"validation_data": "v"}, "cpu", ("validation_data", "validate_every_steps")),
    ({"infinite": True}, "cpu", ("infinite", "schedule=cosine")),
    ({"steps": 5, "warmup_steps": 6}, "cpu", ("steps=5", "warmup_steps=6")),
    ({"packing": "padded", "attention": "sdpa"}, "cpu", ("packing=padded", "attention=sdpa")),
    ({"device": "gpu"}, "cpu", ("device=gpu", "machine")),
    ({"loss": "liger"}, "cpu", ("loss=liger", "device=cpu")),
    ({"attention": "flash_attn"}, "cpu", ("attention=flash_attn", "device=cpu")),
    ({"attention": "flash_attn_4"}, "cpu", ("attention=flash_attn_4", "device=cpu")),
    ({"attention": "varlen"}, "cpu", ("attention=varlen", "device=cpu")),
    ({"cpu_offload": True}, "cpu", ("cpu_offload", "device=cpu")),
]


@pytest.mark.parametrize("changes, device_type, names", CONFLICTS, ids=lambda value: str(value))
def test_both_options_are_named(changes, device_type, names):
    with pytest.raises(ValueError, match="options that do not go together: ") as caught:
        check_options_compatible(config(**changes), device_type)
    reasons = str(caught.value).removeprefix("options that do not go together: ").split("; ")
    assert any(all(name in reason for name in names) for reason in reasons)


def test_all_at_once():
    with pytest.raises(ValueError) as caught:
        check_options_compatible(config(infinite=True, loss="liger", cpu_offload=True, framework="ddp"), "cpu")
    for names in (("infinite", "schedule"), ("loss=liger", "device"), ("framework=ddp", "cpu_offload")):
        assert all(name in str(caught.value) for name in names)


@pytest.mark.parametrize(
    "changes, device_type",
    [
        ({}, "cpu"),
        ({}, "cuda"),
        ({"steps": 6, "warmup_steps": 6}, "cpu"),
        ({"infinite": True, "schedule": "constant"}, "cpu"),
        ({"osft_unfreeze": 0.5}, "cpu"),
        ({"packing": "padded", "framework": "ddp"}, "cpu"),
        ({"save_best": True, "validation_fraction": 0.1, "validate_every_epoch": True}, "cpu"),
        ({"attention": "flash_attn", "cpu_offload": True, "device": "gpu"}, "cuda"),
    ],
)
def test_what_goes_together(changes, device_type):
    check_options_compatible(config(**changes), device_type)


@pytest.mark.parametrize(
    "changes, package",
    [
        ({"tensorboard": True}, "tensorboard"),
        ({"wandb": True}, "wandb"),
        ({"quantize": "nf4", "lora_rank": 4, "framework": "ddp"}, "bitsandbytes"),
        ({"framework": "deepspeed"}, "deepspeed"),
        ({"loss": "liger"}, "liger-kernel"),
    ],
)
def test_extras(monkeypatch, changes, package):
    monkeypatch.setattr(options, "find_spec", lambda name: name)
    check_options_compatible(config(**changes), "cuda")
    monkeypatch.setattr(options, "find_spec", lambda name: None if name == package.replace("-", "_") else name)
    with pytest.raises(ValueError, match=f"the extra package {package} is not installed"):
        check_options_compatible(config(**changes), "cuda")
