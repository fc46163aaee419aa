"""The blocks of every architecture are found; recomputing them changes no result."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy

from testing.tiny_models.models import ARCHITECTURES, VOCABULARY, tiny_model
from trainers.attention import flash_attn_4
from trainers.lora.adapters import add_lora
from trainers.models import blocks
from trainers.models.blocks import checkpoint_blocks, transformer_blocks

IDS = torch.arange(24).reshape(2, 12) * 7 % VOCABULARY


def loss_and_gradients(model):
    torch.manual_seed(0)
    loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in model.parameters() if parameter.requires_grad)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_blocks_are_found(architecture):
    model = tiny_model(architecture)
    blocks = transformer_blocks(model)
    seen = []
    for at, block in enumerate(blocks):
        block.register_forward_hook(lambda *_, at=at: seen.append(at))
    model(input_ids=IDS, use_cache=False)
    assert seen == [0, 1]
    names = {name.split(".")[-2] for name, module in model.named_modules() if module in blocks}
    assert names in ({"layers"}, {"h"})
    assert transformer_blocks(add_lora(model, rank=2)) == blocks


def test_a_model_without_blocks_is_refused():
    with pytest.raises(ValueError, match="Linear has no list of num_hidden_layers=None blocks"):
        transformer_blocks(nn.Linear(2, 2))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_checkpointing_changes_no_bit(architecture):
    expected = loss_and_gradients(tiny_model(architecture))
    for count in (0, 1, 2):
        model = tiny_model(architecture)
        checkpoint_blocks(model, count)
        for actual, wanted in zip(loss_and_gradients(model), expected, strict=True):
            assert torch.equal(actual, wanted)


def test_checkpointing_draws_the_same_dropout():
    results = []
    for count in (0, 2):
        model = add_lora(tiny_model(), rank=2, dropout=0.5)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # (zero at first: nothing would depend on dropout)
                nn.init.ones_(parameter)
        checkpoint_blocks(model, count)
        results.append(loss_and_gradients(model))
    for actual, wanted in zip(*results, strict=True):
        assert torch.equal(actual, wanted)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_as_many_blocks_as_asked_for_run_again(count):
    model = tiny_model()
    runs = []
    for at, block in enumerate(transformer_blocks(model)):
        block.mlp.register_forward_pre_hook(lambda *_, at=at: runs.append(at))
    checkpoint_blocks(model, count)
    loss_and_gradients(model)
    assert runs == [0, 1, *reversed(range(count))]


@pytest.mark.parametrize(
    "operator",
    [
        flash_attn_4._forward._opoverload,
        torch.ops.aten._flash_attention_forward.default,
        torch.ops.aten._scaled_dot_product_efficient_attention.default,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    ],
    ids=str,
)
def test_what_attention_returned_is_kept(operator):
    assert blocks._keep_attention(None, operator) == CheckpointPolicy.MUST_SAVE
    assert blocks._keep_attention(None, torch.ops.aten.mm.default) != CheckpointPolicy.MUST_SAVE


@pytest.mark.parametrize("count", [-1, 3])
def test_wrong_counts_are_refused(count):
    with pytest.raises(ValueError, match=f"checkpointing of {count} blocks: the model has 2, choose 0 to that"):
        checkpoint_blocks(tiny_model(), count)
