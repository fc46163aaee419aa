import json
import resource

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from testing.distributed.case import DistributedTest
from testing.tiny_models.models import tiny_model
from testing.tiny_models.shards import shard
from trainers.checkpoint.module_state import all_tensors
from trainers.checkpoint.store import CheckpointStore
from trainers.checkpoint.transformers_cases import FAMILIES, assert_equal_weights, load_as_users_do
from trainers.checkpoint.transformers_format import INDEX_FILE, write_transformers
from trainers.parallel.ranks import RankError, Ranks

SMALL_SHARD_GB = 7e-6  # 7 kB: several shards, and tensors above the limit


class TestRanks(DistributedTest):
    world_size = [2, 4]
    timeout = 50

    def test_sharded_model(self, subtests, tmp_path):
        for family in FAMILIES:
            with subtests.test(family=family):
                expected = tiny_model(family)
                store = CheckpointStore(tmp_path / family, Ranks())
                model = shard(tiny_model(family).to(self.device))
                saved = store.save(
                    1, lambda folder, model=model: write_transformers(model, folder, max_shard_gb=SMALL_SHARD_GB)
                )
                loaded = load_as_users_do(saved.path)
                assert type(loaded) is type(expected) and loaded.config.architectures == [type(expected).__name__]
                assert_equal_weights(loaded, expected)

    def test_ranks_take_turns(self, tmp_path):
        """Each rank writes its turn of the shards, and holds one at a time."""
        model = shard(tiny_model("llama").to(self.device))
        names = write_transformers(model, tmp_path, max_shard_gb=SMALL_SHARD_GB)
        mine = [name for name in names if name.endswith(".safetensors")]
        torch.distributed.barrier()
        index = json.loads((tmp_path / INDEX_FILE).read_text())
        files = sorted(set(index["weight_map"].values()))
        assert mine == files[self.rank :: self.world_size] and len(files) > 4
        assert [name for name in names if name not in mine] == (
            [INDEX_FILE, "config.json", "generation_config.json"] if self.rank == 0 else []
        )
        total = 0
        for file in files:
            with safe_open(tmp_path / file, framework="pt") as tensors:
                sizes = [tensors.get_tensor(name).nbytes for name in tensors.keys()]  # noqa: SIM118
            assert sum(sizes) <= SMALL_SHARD_GB * 1e9 or len(sizes) == 1
            total += sum(sizes)
        assert index["metadata"]["total_size"] == total == sum(p.numel() * 4 for p in tiny_model("llama").parameters())

    def test_ddp(self, tmp_path):
        model = DistributedDataParallel(tiny_model("llama_tied").to(self.device))
        CheckpointStore(tmp_path, Ranks()).save(
            3, lambda folder: write_transformers(model, folder, max_shard_gb=SMALL_SHARD_GB)
        )
        assert_equal_weights(load_as_users_do(tmp_path / "step-0000000003"), tiny_model("llama_tied"))

    def test_a_disk_that_is_full_on_one_rank(self, tmp_path):
        """Before the last tensor is gathered; the others must not wait for a rank that has given up."""
        model = shard(tiny_model("llama").to(self.device))
        store = CheckpointStore(tmp_path, Ranks.of_their_own())
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        if self.rank == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
        with pytest.raises(RankError, match=r"^rank 1: .*File too large"):
            store.save(1, lambda folder: write_transformers(model, folder, max_shard_gb=SMALL_SHARD_GB))
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        store.save(2, lambda folder: write_transformers(model, folder, max_shard_gb=SMALL_SHARD_GB))
        assert_equal_weights(load_as_users_do(store.latest().path), tiny_model("llama"))


def test_rounded_once(tmp_path):
    write_transformers(tiny_model("llama"), tmp_path, dtype=torch.bfloat16)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    loaded = load_as_users_do(tmp_path)
    assert loaded.dtype == torch.bfloat16 and (tmp_path / "model.safetensors").exists()
    assert_equal_weights(loaded, tiny_model("llama"), torch.bfloat16)


def test_other_weights_in_place_of_the_models(tmp_path):
    """Read one at a time, so that whoever merges adapters may use one buffer for all."""
    model, merged = tiny_model("llama"), tiny_model("llama", seed=1)
    buffer = torch.empty(100_000)

    def state():
        for name, tensor in all_tensors(merged).items():
            yield name, buffer[: tensor.numel()].view(tensor.shape).copy_(tensor.detach())

    write_transformers(model, tmp_path, state=state(), max_shard_gb=SMALL_SHARD_GB)
    assert_equal_weights(load_as_users_do(tmp_path), merged)


def test_tokenizer_and_generation_configuration(tmp_path):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0, "b": 1}, "a")), pad_token="b")
    tokenizer.chat_template = "{{ messages }}"
    model = tiny_model("llama")
    model.generation_config.max_new_tokens = 17
    before = model.config.to_dict()
    saved = CheckpointStore(tmp_path).save(
        1, lambda folder: write_transformers(model, folder, tokenizer=tokenizer, dtype=torch.bfloat16)
    )
    assert model.config.to_dict() == before
    assert load_as_users_do(saved.path).generation_config.max_new_tokens == 17
    assert AutoTokenizer.from_pretrained(saved.path).chat_template == tokenizer.chat_template


def test_files_of_other_ranks_are_not_ones_own(tmp_path):
    """They write at the same time, under names that are gone a moment later."""
    (tmp_path / ".tmpWLwoUq").write_text("")
    names = write_transformers(tiny_model("llama"), tmp_path)
    assert sorted(names) == ["config.json", "generation_config.json", "model.safetensors"]
    assert {path.name for path in tmp_path.iterdir()} == {*names, ".tmpWLwoUq"}


def test_weights_that_are_tied_in_the_configuration_only(tmp_path):
    model = tiny_model("llama_tied")
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    with pytest.raises(ValueError, match="ties lm_head.weight to model.embed_tokens.weight"):
        write_transformers(model, tmp_path)
    with pytest.raises(ValueError, match="the model is a Linear"):
        write_transformers(nn.Linear(2, 2), tmp_path)
