"""Compiled blocks compute what they compute otherwise, for any number of tokens."""

import torch

from testing.tiny_models.models import VOCABULARY, tiny_model
from testing.tiny_models.samples import random_samples
from testing.tolerances.tolerances import assert_close
from trainers.attention.model_attention import use_packed_attention
from trainers.data.collator import collate_packed
from trainers.models.blocks import checkpoint_blocks, compile_blocks
from trainers.models.inputs import model_inputs
from trainers.models.token_loss import use_loss

DEVICE = torch.device("cuda")


def test_losses_and_gradients():
    plain, compiled = (tiny_model().to(DEVICE) for _ in range(2))
    for model in (plain, compiled):
        use_packed_attention(model, "sdpa")
        use_loss(model, "fused")
    compile_blocks(compiled)
    checkpoint_blocks(compiled, 1)
    for lengths in ([9, 2], [30, 11, 4], [17]):
        minibatch = collate_packed(random_samples(lengths, VOCABULARY), 0)
        for model in (plain, compiled):
            model.zero_grad()
            model(**model_inputs(minibatch, DEVICE)).loss.backward()
        for (name, actual), wanted in zip(compiled.named_parameters(), plain.parameters(), strict=True):
            assert_close(actual.grad, wanted.grad, name)
