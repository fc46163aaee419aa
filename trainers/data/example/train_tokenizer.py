"""Writes tokenizer.json: a small byte-level BPE tokenizer of conversations.jsonl, so that its lengths are real.

Run from the root of the repo after a change of the data: ``python -m trainers.data.example.train_tokenizer``.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL_TOKENS = ("<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
"""Ids 0 to 4. A message is its role's token, its content, and ``<|end|>``."""

VOCABULARY_SIZE = 1536


def train(conversations: Path) -> Tokenizer:
    """Train on the contents of the messages of a JSONL file.

    Args:
        conversations: lines of ``{"messages": [{"role": ..., "content": ...}, ...]}``.

    Returns:
        A byte-level tokenizer: it takes any text and gives it back. Same file, same tokenizer.
    """

    def contents() -> Iterator[str]:
        with conversations.open(encoding="utf-8") as lines:
            for line in lines:
                yield from (message["content"] for message in json.loads(line)["messages"])

    tokenizer = Tokenizer(models.BPE())
    # Digits one by one, as the tokenizers of current models do: numbers would fill a vocabulary of this size.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(contents(), trainer)
    return tokenizer


if __name__ == "__main__":
    here = Path(__file__).parent
    train(here / "conversations.jsonl").save(str(here / "tokenizer.json"))
