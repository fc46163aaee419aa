import json

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from testing.distributed.case import DistributedTest
from testing.distributed.launch import launch_procs
from trainers.checkpoint.consolidate import consolidate
from trainers.checkpoint.full_state import FullStateSaver
from trainers.checkpoint.module_state import all_tensors
from trainers.checkpoint.ranks import Ranks
from trainers.checkpoint.safetensors_loading import load_safetensors
from trainers.checkpoint.store import CheckpointStore
from trainers.checkpoint.tiny_models import CONFIGS, build, build_on_meta, logits
from trainers.checkpoint.transformers_format import INDEX_FILE, write_transformers

SMALL_SHARD_GB = 2e-5  # 20 kB: several shards, and tensors above the limit
CPU = torch.device("cpu")


def shard(model, device):
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for block in model.base_model.layers if hasattr(model.base_model, "layers") else model.base_model.h:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def load(folder, **options):
    """As users do, and nothing may be missing, unexpected or of another shape."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    assert not any(info.values()), info
    return model.eval()


def assert_equal_weights(actual, expected, dtype=None):
    actual, expected = all_tensors(actual), all_tensors(expected)
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor.to(dtype or tensor.dtype)), name


class TestRanks(DistributedTest):
    world_size = [1, 2, 4]
    timeout = 50

    def test_save_and_load(self, subtests, tmp_path):
        """Saved from FSDP2 on all ranks; transformers loads it, and so do we, into an FSDP2 model on meta."""
        for family in CONFIGS:
            with subtests.test(family=family):
                expected = build(family)
                store = CheckpointStore(tmp_path / family, Ranks())
                model = shard(build(family).to(self.device), self.device)
                saved = store.save(
                    1, lambda folder, model=model: write_transformers(model, folder, max_shard_gb=SMALL_SHARD_GB)
                )
                loaded = load(saved.path)
                assert type(loaded) is type(expected) and loaded.config.architectures == [type(expected).__name__]
                assert_equal_weights(loaded, expected)

                empty = shard(build_on_meta(family), self.device)
                before = torch.get_rng_state()
                load_safetensors(empty, saved.path, self.device)
                assert torch.equal(torch.get_rng_state(), before)
                for parameter in empty.parameters():
                    assert isinstance(parameter, DTensor) and parameter.device == self.device
                for (name, actual), (_, wanted) in zip(
                    sorted(all_tensors(empty).items()), sorted(all_tensors(model).items()), strict=True
                ):
                    assert torch.equal(actual.to_local(), wanted.to_local()), name
                assert torch.equal(logits(empty), logits(model))

    def test_memory(self, tmp_path, monkeypatch):
        """Each rank writes its turn of the shards, and holds one at a time."""
        model = shard(build("llama").to(self.device), self.device)
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
        assert index["metadata"]["total_size"] == total == sum(p.numel() * 4 for p in build("llama").parameters())

    def test_ddp(self, tmp_path):
        model = DistributedDataParallel(build("llama tied").to(self.device))
        CheckpointStore(tmp_path, Ranks()).save(
            3, lambda folder: write_transformers(model, folder, max_shard_gb=SMALL_SHARD_GB)
        )
        assert_equal_weights(load(tmp_path / "step-0000000003"), build("llama tied"))


def test_rounded_once(tmp_path):
    write_transformers(build("llama"), tmp_path, dtype=torch.bfloat16)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    loaded = load(tmp_path)
    assert loaded.dtype == torch.bfloat16 and (tmp_path / "model.safetensors").exists()
    assert_equal_weights(loaded, build("llama"), torch.bfloat16)


def test_other_weights_in_place_of_the_models(tmp_path):
    """Read one at a time, so that whoever merges adapters may use one buffer for all."""
    model, merged = build("llama"), build("llama", seed=1)
    buffer = torch.empty(100_000)

    def state():
        for name, tensor in all_tensors(merged).items():
            yield name, buffer[: tensor.numel()].view(tensor.shape).copy_(tensor.detach())

    write_transformers(model, tmp_path, state=state(), max_shard_gb=SMALL_SHARD_GB)
    assert_equal_weights(load(tmp_path), merged)


def test_tokenizer_and_generation_configuration(tmp_path):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0, "b": 1}, "a")), pad_token="b")
    tokenizer.chat_template = "{{ messages }}"
    model = build("llama")
    model.generation_config.max_new_tokens = 17
    before = model.config.to_dict()
    saved = CheckpointStore(tmp_path).save(
        1, lambda folder: write_transformers(model, folder, tokenizer=tokenizer, dtype=torch.bfloat16)
    )
    assert model.config.to_dict() == before
    assert load(saved.path).generation_config.max_new_tokens == 17
    assert AutoTokenizer.from_pretrained(saved.path).chat_template == tokenizer.chat_template


def test_weights_that_are_tied_in_the_configuration_only(tmp_path):
    model = build("llama tied")
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    with pytest.raises(ValueError, match="ties lm_head.weight to model.embed_tokens.weight"):
        write_transformers(model, tmp_path)
    with pytest.raises(ValueError, match="the model is a Linear"):
        write_transformers(nn.Linear(2, 2), tmp_path)


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
    write = pytest.importorskip("safetensors.torch").save_file
    write({"weight": torch.ones(2, 2), "bias": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="buffers mask are in no file"):
        load_safetensors(model, tmp_path, CPU)
    del model.mask
    load_safetensors(model, tmp_path, CPU)
    assert model.weight.sum() == 4


def full_state_job(folder):
    model = shard(build("llama tied", seed=3), CPU)
    optimizer = torch.optim.AdamW(model.parameters())
    with FullStateSaver(CheckpointStore(folder, Ranks.of_their_own())) as saver:
        saver.save(1, model, optimizer)


def test_consolidate_without_the_ranks(tmp_path):
    launch_procs(full_state_job, 4, tmp_path / "full")
    checkpoint = CheckpointStore(tmp_path / "full").latest()
    output = tmp_path / "out" / "model"
    consolidate(checkpoint, build_on_meta("llama tied"), output, max_shard_gb=SMALL_SHARD_GB)
    assert_equal_weights(load(output), build("llama tied", seed=3))
    assert [path.name for path in output.parent.iterdir()] == ["model"]
    consolidate(checkpoint, build_on_meta("llama tied"), tmp_path / "bf16", dtype=torch.bfloat16)
    assert_equal_weights(load(tmp_path / "bf16"), build("llama tied", seed=3), torch.bfloat16)
    with pytest.raises(ValueError, match="out/model exists"):
        consolidate(checkpoint, build_on_meta("llama tied"), output)
    with pytest.raises(ValueError, match="it lacks lm_head.weight"):
        consolidate(checkpoint, build_on_meta("llama"), tmp_path / "other")
