"""A packed or padded minibatch gives the losses and gradients of its sequences one by one, in every architecture."""

import copy
import itertools
import os

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GraniteMoeHybridConfig,
    Lfm2Config,
    Llama4TextConfig,
    RecurrentGemmaConfig,
)

from testing.tiny_models.models import ARCHITECTURES, VOCABULARY, tiny_model
from testing.tiny_models.samples import random_samples
from testing.tolerances.tolerances import assert_close
from trainers.attention.model_attention import use_packed_attention
from trainers.attention.packed import choose_backend
from trainers.data.collator import collate_packed, collate_padded
from trainers.models.inputs import model_inputs
from trainers.models.token_loss import use_loss

DEVICE = torch.device("cuda" if os.environ["TRAINYARD_HARDWARE"] == "gpu" else "cpu")
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
SAMPLES = random_samples([9, 2, 17, 5], VOCABULARY)
COUNTED = sum(int((sample["labels"][1:] != -100).sum()) for sample in SAMPLES)
LOSSES = ["fused", "transformers"] + ["liger"] * (DEVICE.type == "cuda")


def one_by_one(model):
    """Loss and gradients of the samples, each by itself, by transformers alone."""
    model.set_attn_implementation("eager")
    total = 0.0
    for sample in SAMPLES:
        labels = sample["labels"][None].to(DEVICE)
        counted = int((labels[0, 1:] != -100).sum())
        loss = model(input_ids=sample["input_ids"][None].to(DEVICE), labels=labels, use_cache=False).loss
        (loss * (counted / COUNTED)).backward()
        total += float(loss.detach()) * counted / COUNTED
    return total, {name: parameter.grad for name, parameter in model.named_parameters()}


def together(model, kind, form):
    """The same of all samples in one minibatch."""
    use_loss(model, kind)
    if form == "packed":
        use_packed_attention(model, choose_backend(DEVICE, model.dtype))
        minibatch = collate_packed(SAMPLES, 0)
    else:
        minibatch = collate_padded(SAMPLES, 0, 0)
    loss = model(**model_inputs(minibatch, DEVICE)).loss / COUNTED
    loss.backward()
    return float(loss.detach()), {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "qwen3_moe"])
def test_against_one_by_one(architecture):
    base = tiny_model(architecture).to(DEVICE)
    expected_loss, expected = one_by_one(copy.deepcopy(base))
    for kind, form in itertools.product(LOSSES, ("packed", "padded")):
        loss, gradients = together(copy.deepcopy(base), kind, form)
        assert loss == pytest.approx(expected_loss, rel=1e-5), (kind, form)
        for name, gradient in gradients.items():
            assert_close(gradient, expected[name], f"{kind} {form} {name}")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bf16_is_as_near_to_fp32_as_one_by_one(architecture):
    """Two ways to compute in bf16 differ by both their errors; the bound on ours is twice the other's.

    (As FlashAttention's tests do; an error of the algorithm is tens of times larger.)
    """
    base = tiny_model(architecture).to(DEVICE, torch.bfloat16)
    exact_loss, exact = one_by_one(copy.deepcopy(base).float())
    _, plain = one_by_one(copy.deepcopy(base))
    for kind, form in itertools.product(LOSSES, ("packed", "padded")):
        loss, gradients = together(copy.deepcopy(base), kind, form)
        assert loss == pytest.approx(exact_loss, rel=torch.finfo(torch.bfloat16).eps / 2), (kind, form)
        assert distance(gradients, exact) < 2 * distance(plain, exact), (kind, form)


def distance(gradients, exact):
    """The Euclidean one, of all gradients together."""
    return sum(float((gradients[name].float() - exact[name]).square().sum()) for name in exact) ** 0.5


@pytest.mark.parametrize("architecture", ["llama_tied", "phi"])  # (the head of Phi has a bias)
def test_a_dummy_has_no_loss_and_zero_gradients(architecture):
    for kind in LOSSES:
        model = tiny_model(architecture).to(DEVICE, DTYPE)
        use_packed_attention(model, choose_backend(DEVICE, DTYPE))
        use_loss(model, kind)
        loss = model(**model_inputs(collate_packed([], 0), DEVICE)).loss
        loss.backward()
        assert float(loss.detach()) == 0
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and not parameter.grad.any(), name


def test_what_a_fused_head_would_miss_is_refused():
    with torch.device("meta"):
        capped = AutoModelForCausalLM.from_config(RecurrentGemmaConfig(num_hidden_layers=2))
    model = tiny_model()
    model.config.final_logit_softcapping = 30.0
    for each in (model, capped):
        with pytest.raises(ValueError, match="caps its logits, which a fused head cannot: use loss='transformers'"):
            use_loss(each, "fused")
    with pytest.raises(
        ValueError, match="Qwen3MoeForCausalLM adds a loss of its routers, .*: set output_router_logits"
    ):
        use_loss(tiny_model("qwen3_moe", output_router_logits=True), "transformers")
    with pytest.raises(ValueError, match="loss 'ours' is unknown: choose one of fused, transformers, liger"):
        use_loss(model, "ours")
    if DEVICE.type == "cpu":
        with pytest.raises(ValueError, match="the package liger-kernel is not installed"):
            use_loss(tiny_model(), "liger")


def test_packed_attention_is_refused_where_it_cannot_be():
    model = tiny_model()
    use_packed_attention(model, "sdpa")
    inputs = model_inputs(collate_packed(SAMPLES, 0), torch.device("cpu"))
    with pytest.raises(ValueError, match="takes no mask"):
        model(**inputs, attention_mask=torch.zeros(1, 1, 33, 33))
    with pytest.raises(ValueError, match="does not do softcap"):
        model(**inputs, softcap=30.0)
    with pytest.raises(ValueError, match="packed attention is causal, LlamaAttention is not"):
        model(**inputs, is_causal=False)


@pytest.mark.parametrize(
    ("config", "layers", "told"),
    [
        (Lfm2Config, {"layer_types": ["conv", "full_attention"]}, "conv"),
        (Llama4TextConfig, {"layer_types": ["chunked_attention", "full_attention"]}, "chunked_attention"),
        (RecurrentGemmaConfig, {}, ".+"),
        (GraniteMoeHybridConfig, {"layer_types": ["mamba", "attention"]}, ".+"),
    ],
)
def test_layers_that_would_mix_packed_sequences_are_refused(config, layers, told):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config(num_hidden_layers=2, **layers))
    with pytest.raises(ValueError, match=rf"layers that would mix packed sequences \(({told})\): pack with"):
        use_packed_attention(model, "sdpa")
