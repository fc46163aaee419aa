import json
from pathlib import Path

import pytest

from trainers.data import tokenizer
from trainers.data.tokenizer import load_tokenizer

EXAMPLE = Path(tokenizer.__file__).parent / "example"


def test_a_folder_without_one(tmp_path):
    """As of a model that was saved alone; transformers' own words fill several lines and name no option."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(
        ValueError, match=f"^tokenizer {tmp_path} cannot be loaded: give a folder .*--tokenizer"
    ) as told:
        load_tokenizer(tmp_path)
    assert "\n" not in str(told.value)


def test_a_template_in_place_of_its_own():
    assert load_tokenizer(EXAMPLE, "{{ 1 }}").chat_template == "{{ 1 }}" != load_tokenizer(EXAMPLE).chat_template
