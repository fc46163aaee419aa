"""Conversations are tokenised once, by rank 0, and anew when something that the result depends on has changed."""

import json
import shutil
from pathlib import Path

import pytest
import torch.distributed as dist

from testing.distributed.case import DistributedTest
from trainers.data.jsonl_dataset import JsonlDataset
from trainers.parallel.ranks import RankError, Ranks
from trainers.sft import conversations
from trainers.sft.config import TrainConfig
from trainers.sft.conversations import tokenised

EXAMPLE = Path(conversations.__file__).parents[1] / "data/example"


def config_of(folder):
    return TrainConfig(
        model=folder / "tokenizer", data=folder / "chat.jsonl", output=folder / "output", epochs=1, max_seq_len=150
    )


def write(folder, count):
    lines = (EXAMPLE / "conversations.jsonl").read_text().splitlines(keepends=True)
    (folder / "chat.jsonl").write_text("\n" + "".join(lines[:count]))
    shutil.copytree(EXAMPLE, folder / "tokenizer", ignore=shutil.ignore_patterns("*.py", "*.jsonl"), dirs_exist_ok=True)


def test_made_once_and_anew(tmp_path):
    write(tmp_path, 40)
    config = config_of(tmp_path)
    made = tokenised(config, Ranks())
    assert made == config.model_copy(update={"data": tmp_path / "output/data/data.jsonl"})
    first = made.data.stat().st_ino
    assert max(JsonlDataset(made.data).lengths) <= 150
    assert tokenised(config, Ranks()) == made and made.data.stat().st_ino == first
    longer = config.model_copy(update={"max_seq_len": None})
    assert max(JsonlDataset(tokenised(longer, Ranks()).data).lengths) > 150
    write(tmp_path, 60)
    assert len(JsonlDataset(tokenised(longer, Ranks()).data)) > 40


def test_two_files_of_one_name(tmp_path):
    """Folders often tell training data from validation data, not names."""
    write(tmp_path, 40)
    (tmp_path / "validation").mkdir()
    lines = (tmp_path / "chat.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "validation/chat.jsonl").write_text("".join(lines[:11]))
    changes = {"validation_data": tmp_path / "validation/chat.jsonl", "max_seq_len": None}
    config = config_of(tmp_path).model_copy(update=changes)
    made = tokenised(config, Ranks())
    assert made.validation_data is not None
    assert len(JsonlDataset(made.validation_data)) < 11 < len(JsonlDataset(made.data))


def test_killed_while_it_noted_what_the_data_are_made_of(tmp_path):
    write(tmp_path, 40)
    config = config_of(tmp_path)
    data = tokenised(config, Ranks()).data
    note = data.with_suffix(".source.json")
    whole = note.read_text()
    note.write_text(whole[:20])
    assert tokenised(config, Ranks()).data == data and note.read_text() == whole


def test_another_tokenizer_in_the_same_folder(tmp_path):
    write(tmp_path, 40)
    config = config_of(tmp_path)
    before = tokenised(config, Ranks()).data.stat().st_ino
    path = tmp_path / "tokenizer/tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings["chat_template"] = "ASK " + settings["chat_template"]
    path.write_text(json.dumps(settings))
    assert tokenised(config, Ranks()).data.stat().st_ino != before


def test_what_is_tokenised_already_stays_where_it_is(tmp_path):
    (tmp_path / "chat.jsonl").write_text('{"input_ids": [1, 2], "labels": [1, 2]}\n')
    assert tokenised(config_of(tmp_path), Ranks()) == config_of(tmp_path)
    assert not (tmp_path / "output").exists()


TORN = '{"messages": [{"role": "user", "conte\n'


@pytest.mark.parametrize(
    ("line", "reason"),
    [(TORN, "not JSON: .*"), ('{"chat": []}\n', "neither 'messages' nor 'input_ids' in '.\"chat.*'")],
)
def test_a_first_line_of_neither_kind(tmp_path, line, reason):
    write(tmp_path, 40)
    path = tmp_path / "chat.jsonl"
    path.write_text("\n" + line + path.read_text())
    kinds = r'a conversation, {"messages": \[...\]}, or a sample, {"input_ids": \[...\], "labels": \[...\]} '
    with pytest.raises(RankError, match=rf"{path}:2: {reason}; a line is {kinds}\(on_bad_line='skip'"):
        tokenised(config_of(tmp_path), Ranks())
    skipping = config_of(tmp_path).model_copy(update={"on_bad_line": "skip"})
    assert len(JsonlDataset(tokenised(skipping, Ranks()).data)) > 30


class TestRanks(DistributedTest):
    world_size = 2

    def test_all_are_told(self, tmp_path):
        if self.rank == 0:
            write(tmp_path, 40)
        dist.barrier()
        config = config_of(tmp_path)
        assert tokenised(config, Ranks()).data == tmp_path / "output/data/data.jsonl"
        dist.barrier()
        if self.rank == 0:
            with config.data.open("a") as file:
                file.write("no JSON\n")
        dist.barrier()
        with pytest.raises(RankError, match=r"rank 0: ValueError: .*chat\.jsonl"):
            tokenised(config, Ranks())
