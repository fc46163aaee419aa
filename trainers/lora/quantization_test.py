import pytest
import torch
from bitsandbytes.functional import get_4bit_type

from testing.tiny_models.models import VOCABULARY, tiny_model
from testing.tiny_models.training import backward
from testing.tolerances.tolerances import assert_close
from trainers.lora import quantization
from trainers.lora.adapters import add_lora, merged_tensors
from trainers.lora.quantization import dense_state, is_quantised, quantize_nf4
from trainers.optim.optimizer import build_optimizer


def wide():
    return tiny_model("qwen2", hidden_size=64, intermediate_size=128)


def quantised(model=None, compute_dtype=torch.float32):
    model = model or wide()
    quantize_nf4(model, compute_dtype)
    return model


def loss(model, ids):
    return model(input_ids=ids, labels=ids).loss.detach()


def test_which_weights_and_to_what():
    """Projections to the nearest of 16 multiples of the largest of 64 neighbours; the scale itself is in eight bits."""
    before, model = wide().state_dict(), quantised()
    after = dict(dense_state(model))
    assert after.keys() == before.keys()
    levels = get_4bit_type("nf4", device="cpu")
    for name, weight in before.items():
        if "_proj.weight" not in name:
            assert torch.equal(after[name], weight), name
            continue
        blocks = weight.reshape(-1, 64)
        scales = blocks.abs().amax(1, keepdim=True)
        nearest = (blocks[..., None] / scales[..., None] - levels).abs().argmin(-1)
        error = (after[name].reshape(-1, 64) - levels[nearest] * scales).abs().amax() / scales.max()
        assert error < 0.02, (name, error)  # (the scales' eight bits)
    assert sum(map(is_quantised, model.modules())) == 14
    packed = sum(p.numel() * p.element_size() for name, p in model.named_parameters() if "_proj.weight" in name)
    assert packed * 8 == sum(weight.numel() * 4 for name, weight in before.items() if "_proj.weight" in name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_computes_what_the_dense_state_does(dtype):
    """Also after an evaluation, and with adapters: merged they give the same model."""
    model, ids = quantised(compute_dtype=dtype), torch.arange(40).reshape(2, 20) % VOCABULARY
    plain = wide()
    plain.load_state_dict(dict(dense_state(model)))
    assert_close(loss(model, ids), loss(plain, ids), computed_in=dtype)
    adapted = add_lora(model, rank=4, alpha=8)
    frozen = {name: p.clone() for name, p in adapted.named_parameters() if not p.requires_grad}
    with torch.no_grad():
        adapted.eval()(ids)
    adapted.train()
    optimizer = build_optimizer(adapted, 1e-2)
    losses = []
    for _ in range(4):
        losses.append(backward(adapted, ids))
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    for name, parameter in adapted.named_parameters():
        assert parameter.requires_grad == (".lora_" in name)
        assert parameter.requires_grad or torch.equal(parameter, frozen[name]), name
    plain.load_state_dict(dict(merged_tensors(adapted)))
    assert_close(loss(adapted, ids), loss(plain, ids), computed_in=dtype)


def test_four_bits_are_not_in_the_state():
    names = quantised().state_dict().keys()
    assert names == {name for name in wide().state_dict() if "_proj." not in name}


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("gpt2", "c_attn of GPT2LMHeadModel is a Conv1D, and bitsandbytes quantises nn.Linear alone"),
        ("llama", "q_proj of LlamaForCausalLM has 32 inputs, no multiple of the 64 weights that share a scale"),
    ],
)
def test_other_layers_are_refused(architecture, message):
    with pytest.raises(ValueError, match=message):
        quantised(tiny_model(architecture))


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="quantize=nf4 needs the extra package bitsandbytes, which is not installed"):
        quantised()
