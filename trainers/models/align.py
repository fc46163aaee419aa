"""Makes a tokenizer and a model fit each other."""

from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDING_MULTIPLE = 8
"""Rows of an embedding that is enlarged: tensor cores want a multiple of it."""


def align(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the model an embedding for every token and the tokenizer's special ids; give the tokenizer a pad token.

    The embedding grows, to a multiple of 8 rows, only if the tokenizer knows more tokens than it has rows: the new ones
    are drawn as the model initialises embeddings. It never shrinks. A tokenizer without a pad token pads with its EOS.
    Where generation stops at any of several ids, such as those that end a turn, it goes on to.

    Raises:
        ValueError: if the tokenizer has neither a pad nor an EOS token.
    """
    needed = max(tokenizer.get_vocab().values()) + 1  # (more than there are tokens, where ids are left out)
    if needed > num_rows(model):
        # (not from the mean of the others: that cannot be had where the weights are not loaded yet)
        model.resize_token_embeddings(needed, pad_to_multiple_of=EMBEDDING_MULTIPLE, mean_resizing=False)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ValueError(
                f"tokenizer {tokenizer.name_or_path!r} has neither a pad nor an EOS token: add one of them to its "
                "special tokens"
            )
        tokenizer.pad_token = tokenizer.eos_token
    configs: list[Any] = [each for each in (model.config, model.generation_config) if each is not None]
    for config in configs:
        ends = config.eos_token_id
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            setattr(config, name, getattr(tokenizer, name))
        if isinstance(ends, list):
            config.eos_token_id = [*{token: None for token in (tokenizer.eos_token_id, *ends) if token is not None}]


def num_rows(model: PreTrainedModel) -> int:
    """Tokens for which a model has an embedding."""
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding)
    return embedding.num_embeddings
