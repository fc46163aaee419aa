"""Tokenizer and model fit each other afterwards, and nothing changes that need not."""

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from testing.tiny_models.models import ARCHITECTURES, tiny_model
from trainers.models.align import align


def tokenizer_of(size, **special):
    vocabulary = {f"<{at}>": at for at in range(size)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocabulary, "<0>")), **special)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_embedding_grows_to_a_multiple_of_8(architecture):
    model = tiny_model(architecture)
    before = model.get_input_embeddings().weight.clone()
    align(model, tokenizer_of(66, eos_token="<65>", pad_token="<64>", bos_token="<3>"))
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        assert len(layer.weight) == 72
    assert model.config.vocab_size == 72
    assert torch.equal(model.get_input_embeddings().weight[:61], before)
    for config in (model.config, model.generation_config):
        assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (64, 3, 65)
    assert model(input_ids=torch.tensor([[65, 71]])).logits.shape[-1] == 72


def test_embedding_that_is_large_enough_stays():
    model = tiny_model()
    align(model, tokenizer_of(50, eos_token="<4>", pad_token="<5>"))
    assert len(model.get_input_embeddings().weight) == 61
    assert model.config.bos_token_id is None


def test_what_ends_a_turn_ends_it_still():
    """Of Gemma's ids two end a generation, and the tokenizer's EOS is not the one that its chat template writes."""
    model = tiny_model()
    model.generation_config.eos_token_id = [2, 7]
    align(model, tokenizer_of(61, eos_token="<4>", pad_token="<5>"))
    assert model.generation_config.eos_token_id == [4, 2, 7] and model.config.eos_token_id == 4
    align(model, tokenizer_of(61, eos_token="<7>", pad_token="<5>"))
    assert model.generation_config.eos_token_id == [7, 4, 2]


def test_ids_that_are_left_out_count():
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"a": 0, "b": 70}, "a")), eos_token="b", pad_token="a"
    )
    model = tiny_model()
    align(model, tokenizer)
    assert len(model.get_input_embeddings().weight) == 72


def test_pad_token_from_eos():
    model, tokenizer = tiny_model(), tokenizer_of(61, eos_token="<4>")
    align(model, tokenizer)
    assert tokenizer.pad_token_id == model.config.pad_token_id == 4
    with pytest.raises(ValueError, match="has neither a pad nor an EOS token: add one"):
        align(model, tokenizer_of(61))
