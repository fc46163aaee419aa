import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor

from testing.distributed.case import DistributedTest
from trainers.checkpoint.module_state import all_tensors, without_aliases
from trainers.checkpoint.ranks import Ranks
from trainers.checkpoint.safetensors_loading import load_safetensors
from trainers.checkpoint.store import CheckpointStore
from trainers.checkpoint.tiny_models import CONFIGS, build, build_on_meta, logits, shard
from trainers.checkpoint.transformers_format import write_transformers


class TestRanks(DistributedTest):
    world_size = [2, 4]
    timeout = 50

    def test_into_a_sharded_model_on_meta(self, subtests, tmp_path):
        for family in CONFIGS:
            with subtests.test(family=family):
                model = shard(build(family).to(self.device), self.device)
                saved = CheckpointStore(tmp_path / family, Ranks()).save(
                    1, lambda folder, model=model: write_transformers(model, folder, max_shard_gb=2e-5)
                )
                empty = shard(build_on_meta(family), self.device)
                before = torch.get_rng_state()
                load_safetensors(empty, saved.path, self.device)
                assert torch.equal(torch.get_rng_state(), before)
                actual, expected = without_aliases(all_tensors(empty)), without_aliases(all_tensors(model))
                assert list(actual) == list(expected), "tied weights are one tensor"
                for name, tensor in actual.items():
                    assert isinstance(tensor, DTensor) and tensor.device == self.device
                    assert torch.equal(tensor.to_local(), expected[name].to_local()), name
                assert torch.equal(logits(empty), logits(model))  # by buffers that are in no file, too


def moved_to_meta(family):
    model = build(family).to("meta")  # has its weights and buffers behind it
    model.tie_weights()
    return model


@pytest.mark.parametrize("make", [build_on_meta, moved_to_meta])
@pytest.mark.parametrize("family", ["llama tied", "gpt2"])
def test_into_a_plain_model_on_meta(family, make, tmp_path):
    write_transformers(build(family), tmp_path)
    model = make(family)
    load_safetensors(model, tmp_path, torch.device("cpu"))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert torch.equal(logits(model), logits(build(family)))


def test_loading_another_model_is_refused_by_name(tmp_path):
    write_transformers(build("llama"), tmp_path)
    tied = build("llama tied")
    load_safetensors(tied, tmp_path)  # a second copy of a tied weight is allowed
    model = build("llama")
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
    with pytest.raises(ValueError, match="say with device="):
        load_safetensors(build_on_meta("llama"), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="lacks model.safetensors"):
        load_safetensors(model, tmp_path)


def test_weights_are_cast_to_the_model(tmp_path):
    write_transformers(build("llama", seed=1), tmp_path, dtype=torch.bfloat16)
    model = build("llama")
    load_safetensors(model, tmp_path)
    for name, tensor in all_tensors(build("llama", seed=1)).items():
        assert torch.equal(all_tensors(model)[name], tensor.bfloat16().float())


def test_buffers_that_nobody_can_compute(tmp_path):
    model = nn.Linear(2, 2, device="meta")
    model.register_buffer("mask", torch.empty(2, device="meta"), persistent=False)
    save_file({"weight": torch.ones(2, 2), "bias": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="buffers mask are in no file"):
        load_safetensors(model, tmp_path, torch.device("cpu"))
    del model.mask
    load_safetensors(model, tmp_path, torch.device("cpu"))
    assert model.weight.sum() == 4
