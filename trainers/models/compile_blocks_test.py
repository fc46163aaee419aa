"""Compiled blocks compute what they are, for any number of tokens, recomputed or not."""

import os

import pytest
import torch
from torch._dynamo.utils import counters

from testing.tiny_models.models import VOCABULARY, tiny_model
from testing.tolerances.tolerances import assert_close
from trainers.models.blocks import checkpoint_blocks, compile_blocks

DEVICE = torch.device({"cpu": "cpu", "gpu": "cuda"}[os.environ["TRAINYARD_HARDWARE"]])


def loss_and_gradients(model, tokens):
    ids = torch.arange(tokens, device=DEVICE)[None] * 7 % VOCABULARY
    model.zero_grad()
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in model.parameters())]


@pytest.mark.parametrize("count", [0, 1])
def test_loss_and_gradients(count):
    torch._dynamo.reset()
    counters.clear()
    eager, compiled = (tiny_model().to(DEVICE) for _ in range(2))
    compile_blocks(compiled)
    checkpoint_blocks(compiled, count)
    for tokens in (24, 40, 56):
        for at, (actual, expected) in enumerate(
            zip(loss_and_gradients(compiled, tokens), loss_and_gradients(eager, tokens), strict=True)
        ):
            assert_close(actual, expected, f"{at} with {tokens} tokens")
    assert counters["stats"]["unique_graphs"] == 1, "one graph serves both blocks and all lengths"
    assert not counters["graph_break"]
