import pytest
import torch

from testing.distributed.launch import launch_procs
from trainers.checkpoint.consolidate import consolidate
from trainers.checkpoint.full_state import FullStateSaver
from trainers.checkpoint.ranks import Ranks
from trainers.checkpoint.store import CheckpointStore
from trainers.checkpoint.tiny_models import assert_equal_weights, build, build_on_meta, load_as_users_do, shard

CPU = torch.device("cpu")


def full_state_job(folder):
    model = shard(build("llama tied", seed=3), CPU)
    optimizer = torch.optim.AdamW(model.parameters())
    with FullStateSaver(CheckpointStore(folder, Ranks.of_their_own())) as saver:
        saver.save(1, model, optimizer)


def test_consolidate_without_the_ranks(tmp_path):
    launch_procs(full_state_job, 4, tmp_path / "full")
    checkpoint = CheckpointStore(tmp_path / "full").latest()
    output = tmp_path / "out" / "model"
    consolidate(checkpoint, build_on_meta("llama tied"), output, max_shard_gb=2e-5)
    assert_equal_weights(load_as_users_do(output), build("llama tied", seed=3))
    assert [path.name for path in output.parent.iterdir()] == ["model"]
    consolidate(checkpoint, build_on_meta("llama tied"), tmp_path / "bf16", dtype=torch.bfloat16)
    assert_equal_weights(load_as_users_do(tmp_path / "bf16"), build("llama tied", seed=3), torch.bfloat16)
    with pytest.raises(ValueError, match="out/model exists"):
        consolidate(checkpoint, build_on_meta("llama tied"), output)
    with pytest.raises(ValueError, match="it lacks lm_head.weight"):
        consolidate(checkpoint, build_on_meta("llama"), tmp_path / "other")
