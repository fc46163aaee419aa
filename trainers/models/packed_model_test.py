"""A packed or padded minibatch gives the losses and gradients of its sequences one by one, in every architecture."""

import copy
import os

import pytest
import torch

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


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_against_one_by_one(architecture):
    base = tiny_model(architecture).to(DEVICE, DTYPE)
    reference = copy.deepcopy(base)
    reference.set_attn_implementation("eager")
    expected = 0.0
    for sample in SAMPLES:
        labels = sample["labels"][None].to(DEVICE)
        counted = int((labels[0, 1:] != -100).sum())
        loss = reference(input_ids=sample["input_ids"][None].to(DEVICE), labels=labels, use_cache=False).loss
        (loss * (counted / COUNTED)).backward()
        expected += float(loss.detach()) * counted / COUNTED
    for kind in LOSSES:
        for form in ("packed", "padded"):
            model = copy.deepcopy(base)
            use_loss(model, kind)
            if form == "packed":
                use_packed_attention(model, choose_backend(DEVICE, DTYPE))
                minibatch = collate_packed(SAMPLES, 0)
            else:
                minibatch = collate_padded(SAMPLES, 0, 0)
            loss = model(**model_inputs(minibatch, DEVICE)).loss / COUNTED
            loss.backward()
            bound = 1e-3 if torch.bfloat16 == DTYPE else 1e-5
            assert float(loss.detach()) == pytest.approx(expected, rel=bound), (kind, form)
            for (name, actual), wanted in zip(model.named_parameters(), reference.parameters(), strict=True):
                assert_close(actual.grad, wanted.grad, f"{kind} {form} {name}")


def test_a_dummy_has_no_loss_and_zero_gradients():
    for kind in LOSSES:
        model = tiny_model("llama_tied").to(DEVICE, DTYPE)
        use_packed_attention(model, choose_backend(DEVICE, DTYPE))
        use_loss(model, kind)
        loss = model(**model_inputs(collate_packed([], 0), DEVICE)).loss
        loss.backward()
        assert float(loss.detach()) == 0
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and not parameter.grad.any(), name


def test_what_a_fused_head_would_miss_is_refused():
    model = tiny_model()
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(ValueError, match="caps its logits, which a fused head cannot: use loss='transformers'"):
        use_loss(model, "fused")
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
