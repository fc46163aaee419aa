import json
import logging
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from trainers.data import chat, preparation
from trainers.data.arrow_dataset import ArrowDataset
from trainers.data.chat import ChatTokenizer
from trainers.data.jsonl_dataset import JsonlDataset
from trainers.data.preparation import PrepareSummary, prepare
from trainers.data.tokenizer import load_tokenizer

EXAMPLE = Path(chat.__file__).parent / "example"
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def conversation(question: str, answer: str = "Yes.", **rest) -> dict:
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        **rest,
    }


@pytest.fixture
def tokenizer(tmp_path) -> Path:
    """A folder as transformers writes it."""
    loaded = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_file(str(EXAMPLE / "tokenizer.json")))
    loaded.chat_template = TEMPLATE
    loaded.save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def write(folder: Path, *lines: object) -> Path:
    path = folder / "messages.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_shipped_conversations_are_the_same_from_any_number_of_processes(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(preparation, "_BLOCK_BYTES", 10_000)
    source = tmp_path / "conversations.jsonl"
    source.write_text("".join((EXAMPLE / "conversations.jsonl").read_text().splitlines(keepends=True)[:300]))
    sizes: list[int] = []
    one = prepare(source, tokenizer, tmp_path / "one.jsonl", max_len=150, advance=sizes.append)
    two = prepare(source, tokenizer, tmp_path / "two.jsonl", max_len=150, num_processes=2)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    assert one == two
    assert sum(sizes) == source.stat().st_size
    assert one.kept + one.too_short + one.too_long == len(source.read_text().splitlines())
    assert min(one.too_short, one.too_long) > 0

    dataset = JsonlDataset(tmp_path / "one.jsonl")
    assert len(dataset) == one.kept
    assert dataset.lengths.sum() == one.tokens
    assert dataset.num_loss_counted_tokens.sum() == one.loss_tokens
    assert 20 <= dataset.lengths.min() <= dataset.lengths.max() < 150
    tokenize = ChatTokenizer(load_tokenizer(str(tokenizer)))
    samples = [tokenize(json.loads(line)["messages"]) for line in source.read_text().splitlines()]
    first = next(sample for sample in samples if 20 <= len(sample["input_ids"]) < 150)
    assert dataset[0]["input_ids"].tolist() == first["input_ids"]
    assert dataset[0]["labels"].tolist() == first["labels"]

    assert prepare(source, tokenizer, tmp_path / "two.arrow", max_len=150, num_processes=2) == one
    arrow = ArrowDataset(tmp_path / "two.arrow")
    assert len(arrow) == len(dataset)
    for index in range(len(dataset)):
        for value, expected in zip(arrow[index].values(), dataset[index].values(), strict=True):
            assert np.array_equal(value, expected), index


def test_arrow_is_written_whole_or_not_at_all(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="no conversation is left to write"):
        prepare(write(tmp_path, conversation("Is it?")), tokenizer, tmp_path / "tokens.arrow", min_len=500)
    assert not list(tmp_path.glob("*.arrow*")) and not list(tmp_path.glob(".*"))


def test_what_is_left_out_is_counted(tmp_path, tokenizer, caplog):
    exact = len(ChatTokenizer(load_tokenizer(str(tokenizer)))(conversation("x" * 8)["messages"])["input_ids"])
    lines = [
        conversation("x" * 8),  # the shortest that is kept
        conversation("x" * 7),
        "",
        "{",
        conversation("x" * 9),  # the longest that is kept
        conversation("x" * 10),
        {"messages": [{"role": "user", "content": "x" * (exact - 2)}]},
    ]
    source, output = write(tmp_path, *lines), tmp_path / "tokens.jsonl"
    with caplog.at_level(logging.WARNING):
        summary = prepare(source, tokenizer, output, min_len=exact, max_len=exact + 2, on_bad_line="skip")
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["len"] for row in rows] == [len(row["input_ids"]) for row in rows] == [exact, exact + 1]
    loss_tokens = sum(row["num_loss_counted_tokens"] for row in rows)
    assert loss_tokens == sum(label != -100 for row in rows for label in row["labels"][1:])
    assert summary == PrepareSummary(2, 1, 1, 1, 1, 2 * exact + 1, loss_tokens)
    assert "messages.jsonl:4: not JSON" in caplog.text


def test_a_line_may_unmask_itself(tmp_path, tokenizer):
    lines = [conversation("Is it?"), conversation("Is it?", unmask=True), conversation("Is it?", unmask=False)]
    outputs = [tmp_path / "masked.jsonl", tmp_path / "unmasked.jsonl"]
    for unmask, output in enumerate(outputs):
        prepare(write(tmp_path, *lines), tokenizer, output, min_len=1, unmask=bool(unmask))
    masked, unmasked = (
        [json.loads(line)["num_loss_counted_tokens"] for line in output.read_text().splitlines()] for output in outputs
    )
    assert masked[0] == masked[2] == unmasked[2]
    assert masked[1] == unmasked[0] == unmasked[1] > masked[0]


def test_a_tokenizer_file_with_a_template_beside_it(tmp_path, tokenizer):
    source = write(tmp_path, conversation("Is it?"))
    (tmp_path / "template.jinja").write_text(TEMPLATE)
    prepare(source, tokenizer, tmp_path / "folder.jsonl", min_len=1)
    prepare(
        source,
        EXAMPLE / "tokenizer.json",
        tmp_path / "file.jsonl",
        min_len=1,
        chat_template=tmp_path / "template.jinja",
    )
    assert (tmp_path / "folder.jsonl").read_bytes() == (tmp_path / "file.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("line", "options", "message"),
    [
        ("{", {}, r"messages.jsonl:2: not JSON: .*on_bad_line='skip'"),
        ({"input_ids": [1]}, {}, "messages.jsonl:2: expected an object with 'messages'"),
        ({"messages": []}, {}, "messages.jsonl:2: 'messages' must be a list of at least one message"),
        ({"messages": [{"role": "user"}]}, {}, "messages.jsonl:2: message 0 must be an object"),
        (conversation("\ud800"), {}, r"messages.jsonl:2: not JSON: .*'\\ud800'.* surrogates not allowed"),
        ('{"messages": [], "messages": []}', {}, "messages.jsonl:2: not JSON: the key 'messages' stands twice"),
        (conversation("x", unmask="yes"), {}, "messages.jsonl:2: 'unmask' must be true or false, got 'yes'"),
        ("", {"min_len": 0}, "min_len=0 must be at least 1 and below max_len=None"),
        ("", {"max_len": 20}, "min_len=20 must be at least 1 and below max_len=20"),
        ("", {"min_len": 500}, "messages.jsonl: no conversation is left to write: .*too_short=1"),
        ("", {"on_bad_line": "ignore"}, "on_bad_line='ignore' is unknown"),
        ("", {"tokenizer": EXAMPLE / "conversations.jsonl"}, "tokenizer .*conversations.jsonl cannot be loaded"),
        ("", {"tokenizer": EXAMPLE / "tokenizer.json"}, "the tokenizer has no chat template"),
    ],
)
def test_an_error_names_its_place_and_leaves_the_old_output(tmp_path, tokenizer, monkeypatch, line, options, message):
    monkeypatch.setattr(preparation, "_BLOCK_BYTES", 10)  # so that the number counts earlier blocks
    output = tmp_path / "tokens.jsonl"
    output.write_text("old")
    source = write(tmp_path, conversation("Is it so, or is it not?", "It is so. It is, it is, it is, it is."), line)
    with pytest.raises(ValueError, match=message):
        prepare(source, **({"tokenizer": tokenizer, "output": output} | options))
    assert output.read_text() == "old"
    assert not list(tmp_path.glob(".*"))
