"""Loads a tokenizer, or says which one cannot be loaded."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast


def load_tokenizer(tokenizer: str | Path, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer of transformers.

    Args:
        tokenizer: a folder, a tokenizer.json, or a name that transformers resolves.
        chat_template: template to use instead of the tokenizer's own.

    Raises:
        ValueError: if it cannot be loaded.
    """
    loaded: PreTrainedTokenizerBase
    try:
        if Path(tokenizer).is_file():
            loaded = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer))  # type: ignore[no-untyped-call]
        else:
            loaded = AutoTokenizer.from_pretrained(tokenizer)
    except Exception as error:  # each format has errors of its own
        reason = " ".join(str(error).split())
        raise ValueError(
            f"tokenizer {tokenizer} cannot be loaded: give a folder with tokenizer.json (--tokenizer); {reason}"
        ) from error
    if chat_template is not None:
        loaded.chat_template = chat_template
    return loaded
