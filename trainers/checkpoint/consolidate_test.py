import os
import resource

import pytest
import torch
import torch.distributed as dist

from testing.distributed.launch import launch_procs
from testing.tiny_models.models import tiny_model
from testing.tiny_models.shards import shard
from trainers.checkpoint.consolidate import consolidate
from trainers.checkpoint.full_state import FullStateSaver
from trainers.checkpoint.store import CheckpointStore
from trainers.checkpoint.transformers_cases import assert_equal_weights, load_as_users_do
from trainers.parallel.ranks import RankError, Ranks


def save_and_consolidate(folder):
    """The first of two ranks alone, as a training might do with what it has just saved."""
    full_state_job(folder / "full")
    if dist.get_rank() == 0:
        checkpoint = CheckpointStore(folder / "full", Ranks.alone()).latest()
        consolidate(checkpoint, on_meta("llama_tied"), folder / "model", max_shard_gb=2e-5)


def full_state_job(folder):
    model = shard(tiny_model("llama_tied", seed=3))
    optimizer = torch.optim.AdamW(model.parameters())
    with FullStateSaver(CheckpointStore(folder, Ranks.of_their_own())) as saver:
        saver.save(1, model, optimizer)


def on_meta(architecture):
    with torch.device("meta"):
        return tiny_model(architecture)


def test_consolidate_without_the_ranks(tmp_path):
    launch_procs(full_state_job, 4, tmp_path / "full")
    checkpoint = CheckpointStore(tmp_path / "full").latest()
    output = tmp_path / "out" / "model"
    consolidate(checkpoint, on_meta("llama_tied"), output, max_shard_gb=2e-5)
    assert_equal_weights(load_as_users_do(output), tiny_model("llama_tied", seed=3))
    assert [path.name for path in output.parent.iterdir()] == ["model"]
    consolidate(checkpoint, on_meta("llama_tied"), tmp_path / "bf16", dtype=torch.bfloat16)
    assert_equal_weights(load_as_users_do(tmp_path / "bf16"), tiny_model("llama_tied", seed=3), torch.bfloat16)
    with pytest.raises(ValueError, match="out/model exists"):
        consolidate(checkpoint, on_meta("llama_tied"), output)
    with pytest.raises(ValueError, match="it lacks lm_head.weight"):
        consolidate(checkpoint, on_meta("llama"), tmp_path / "other")


def test_one_rank_of_several(tmp_path):
    launch_procs(save_and_consolidate, 2, tmp_path)
    assert_equal_weights(load_as_users_do(tmp_path / "model"), tiny_model("llama_tied", seed=3))


def test_flushed_before_it_appears_and_removed_if_it_fails(tmp_path, monkeypatch):
    with FullStateSaver(CheckpointStore(tmp_path / "full")) as saver:
        saver.save(1, tiny_model("llama_tied"))
    checkpoint = saver.store.latest()
    done = []
    fsync, rename = os.fsync, os.rename

    def flush(descriptor):
        done.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "rename", lambda old, new: (done.append(f"rename to {new}"), rename(old, new)))
    consolidate(checkpoint, on_meta("llama_tied"), tmp_path / "out" / "model")
    assert {"model.safetensors", "config.json"} < set(done[: done.index(f"rename to {tmp_path / 'out' / 'model'}")])
    assert done[-1] == "out"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    with pytest.raises(RankError, match="File too large"):
        consolidate(checkpoint, on_meta("llama_tied"), tmp_path / "out" / "other")
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model"]
