import pytest
import torch

from testing.distributed.launch import launch_procs
from testing.tiny_models.models import tiny_model
from testing.tiny_models.shards import shard
from trainers.checkpoint.consolidate import consolidate
from trainers.checkpoint.full_state import FullStateSaver
from trainers.checkpoint.ranks import Ranks
from trainers.checkpoint.store import CheckpointStore
from trainers.checkpoint.transformers_cases import assert_equal_weights, load_as_users_do


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
