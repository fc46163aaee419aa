import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from testing.distributed.case import DistributedTest
from testing.tiny_models.models import VOCABULARY, tiny_model
from testing.tiny_models.shards import shard
from trainers.checkpoint.module_state import all_tensors, without_aliases
from trainers.checkpoint.safetensors_loading import load_safetensors
from trainers.checkpoint.store import CheckpointStore
from trainers.checkpoint.transformers_cases import FAMILIES
from trainers.checkpoint.transformers_format import write_transformers
from trainers.models.load import empty_model, materialise
from trainers.parallel.ranks import Ranks


def logits(model):
    with torch.no_grad():
        return model(torch.arange(VOCABULARY, device=next(model.parameters()).device)[None]).logits


class TestRanks(DistributedTest):
    world_size = [2, 4]
    timeout = 50

    def test_into_a_sharded_model_on_meta(self, subtests, tmp_path):
        for family in FAMILIES:
            with subtests.test(family=family):
                model = shard(tiny_model(family).to(self.device))
                saved = CheckpointStore(tmp_path / family, Ranks()).save(
                    1, lambda folder, model=model: write_transformers(model, folder, max_shard_gb=7e-6)
                )
                empty = shard(empty_model(saved.path))
                materialise(empty, self.device)
                load_safetensors(empty, saved.path)
                actual, expected = without_aliases(all_tensors(empty)), without_aliases(all_tensors(model))
                assert list(actual) == list(expected), "tied weights are one tensor"
                for name, tensor in actual.items():
                    assert isinstance(tensor, DTensor) and tensor.device == self.device
                    assert torch.equal(tensor.to_local(), expected[name].to_local()), name
                assert torch.equal(logits(empty), logits(model))  # by buffers that are in no file, too


def test_loading_another_model_is_refused_by_name(tmp_path):
    write_transformers(tiny_model("llama"), tmp_path)
    tied = tiny_model("llama_tied")
    load_safetensors(tied, tmp_path)  # a second copy of a tied weight is allowed
    model = tiny_model("llama")
    model.extra = nn.Linear(2, 2)
    del model.model.norm
    model.lm_head = nn.Linear(32, 7)
    before = model.model.embed_tokens.weight.clone()
    with pytest.raises(
        ValueError,
        match=r"lacks lm_head.bias, extra.weight, extra.bias; the model lacks model.norm.weight; "
        r"shapes differ: lm_head.weight \(61, 32\), in the model \(7, 32\)$",
    ):
        load_safetensors(model, tmp_path)
    assert torch.equal(before, model.model.embed_tokens.weight)
    with pytest.raises(ValueError, match=r"model.embed_tokens.weight, .* and 16 more are on the meta device"):
        load_safetensors(empty_model(tmp_path), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="lacks model.safetensors"):
        load_safetensors(model, tmp_path)


def test_weights_are_cast_to_the_model(tmp_path):
    write_transformers(tiny_model("llama", seed=1), tmp_path, dtype=torch.bfloat16)
    model = tiny_model("llama")
    load_safetensors(model, tmp_path)
    for name, tensor in all_tensors(tiny_model("llama", seed=1)).items():
        assert torch.equal(all_tensors(model)[name], tensor.bfloat16().float())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model-00002-of-00012.safetensors", 100, "header"),
        ("model-00002-of-00012.safetensors", -1, "incomplete metadata"),
        ("model.safetensors.index.json", 50, "Unterminated string"),
        ("model.safetensors.index.json", b"{}", "KeyError.'weight_map'"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, message):
    write_transformers(tiny_model("llama"), tmp_path, max_shard_gb=7e-6)
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else path.read_bytes()[:content])
    with pytest.raises(ValueError, match=rf"{name} is damaged, copy it again: .*({message})"):
        load_safetensors(tiny_model("llama"), tmp_path)
