"""Models come from their folder as they are, or not at all."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from testing.tiny_models.models import ARCHITECTURES, tiny_config, tiny_model
from trainers.models.load import empty_model, materialise, read_model


def test_weights_are_read_in_fp32(tmp_path):
    model = tiny_model("llama_tied").to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    read = read_model(tmp_path)
    assert read.lm_head.weight is read.model.embed_tokens.weight
    for (name, actual), wanted in zip(read.named_parameters(), model.parameters(), strict=True):
        assert actual.dtype == torch.float32 and torch.equal(actual, wanted.float()), name


def test_configuration_alone_gives_random_weights(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    first, again, other = (read_model(tmp_path, seed).lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_empty_model_has_values_in_its_buffers_alone(tmp_path, architecture):
    """With memory, too, and tied weights are one in either state."""
    model = tiny_model(architecture)
    model.save_pretrained(tmp_path)
    empty = empty_model(tmp_path)
    assert [name for name, _ in empty.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert all(parameter.is_meta for parameter in empty.parameters())
    buffers = list(empty.buffers())
    materialise(empty, torch.device("cpu"))
    assert all(one is other for one, other in zip(empty.buffers(), buffers, strict=True))  # (FSDP has put them there)
    assert [name for name, _ in empty.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert not any(parameter.is_meta for parameter in empty.parameters())
    assert [name for name, _ in empty.named_buffers()] == [name for name, _ in model.named_buffers()]
    for (name, actual), wanted in zip(empty.named_buffers(), model.buffers(), strict=True):
        assert torch.equal(actual, wanted), name


def test_buffers_that_have_lost_their_values():
    with pytest.raises(ValueError, match="buffers model.rotary_emb.inv_freq, .* are on the meta device, without"):
        materialise(tiny_model().to("meta"), torch.device("cpu"))


def test_weights_of_the_older_format_are_read_too(tmp_path):
    """Not drawn, as where there are none."""
    model = tiny_model(seed=5)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert torch.equal(read_model(tmp_path).lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize("left", [0, 4000])
def test_damaged_weights_are_refused_by_name(tmp_path, left):
    tiny_model().save_pretrained(tmp_path, max_shard_size="20KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:left])
    if not left:
        shard.unlink()
    with pytest.raises(ValueError, match=f"{tmp_path}: the weights cannot be read: "):
        read_model(tmp_path)


def test_what_is_no_model_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="no config.json in it; give the folder of a transformers model"):
        read_model(tmp_path)
    tiny_model(num_hidden_layers=1).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    with pytest.raises(ValueError, match=r"weights do not fit config.json: they lack .*layers.1.input_layernorm"):
        read_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 8}))
    with pytest.raises(ValueError, match=r"weights do not fit config.json: shapes differ: .*mlp.down_proj.weight"):
        read_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json cannot be read"):
        empty_model(tmp_path)


def test_layers_that_the_configuration_has_not_are_refused(tmp_path):
    """transformers drops them with a warning: what was trained would be another model than the one in the folder."""
    model = tiny_model(num_hidden_layers=3)
    model.config.num_hidden_layers = 2
    model.save_pretrained(tmp_path)
    layer = r"model\.layers\.2\."
    match = (
        rf"^{tmp_path}: the weights do not fit config.json: the model lacks {layer}.* and 4 more; give the config.json"
    )
    with pytest.raises(ValueError, match=match):
        read_model(tmp_path)


@pytest.mark.parametrize(
    ("architecture", "name", "values"),
    [
        ("llama_tied", "lm_head.weight", "model.embed_tokens.weight"),
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq", "model.norm.weight"),
        ("gpt2", "transformer.h.0.attn.bias", "transformer.ln_f.bias"),  # (GPT2PreTrainedModel declares it)
    ],
)
def test_what_older_folders_hold_beside_their_weights_is_no_harm(tmp_path, architecture, name, values):
    model = tiny_model(architecture)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(weights | {name: weights[values].clone()}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(read_model(tmp_path).lm_head.weight, model.lm_head.weight)
