"""How long a save stops the training, and how fast checkpoints are written, verified and loaded."""

import os
import time

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from testing.distributed.launch import launch_procs
from trainers.checkpoint.full_state import FullStateSaver, load_full_state
from trainers.checkpoint.store import CheckpointStore
from trainers.data.benchmarking import report
from trainers.parallel.ranks import Ranks

LAYERS, WIDTH = 24, 2048  # 0.4 GB of fp32 weights, and twice that of AdamW's state


def measure(folder):
    """Return rows of what was done, by this rank and the others together, with its seconds and MB a second."""
    device = torch.device({"cpu": "cpu", "gpu": "cuda"}[os.environ["TRAINYARD_HARDWARE"]])
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, device=device) for _ in range(LAYERS)))
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, WIDTH, device=device)).sum().backward()
    optimizer.step()
    store = CheckpointStore(folder, Ranks.of_their_own(), keep_last=1)
    times = {}

    def timed(name, work):
        dist.barrier()
        began = time.perf_counter()
        result = work()
        dist.barrier()
        times[name] = time.perf_counter() - began
        return result

    with FullStateSaver(store) as saver:
        for step, name in enumerate(("first save", "later save")):
            timed(f"{name}: training stops", lambda step=step: saver.save(step, model, optimizer))
            checkpoint = timed(f"{name}: in the background", saver.wait)
    timed("verify", lambda: store.damage(checkpoint))
    timed("load", lambda: load_full_state(checkpoint, model, optimizer, ranks=store.ranks))
    megabytes = sum(file.size for file in checkpoint.files.values()) / 1e6
    return [
        {"what": name, "GB": f"{megabytes / 1e3:.2f}", "s": f"{seconds:.2f}", "MB/s": f"{megabytes / seconds:.0f}"}
        for name, seconds in times.items()
    ]


@pytest.mark.parametrize("ranks", range(1, int(os.environ.get("TRAINYARD_DEVICES", "2")) + 1))
def test_full_state(ranks, tmp_path, capsys):
    rows = launch_procs(measure, ranks, tmp_path, timeout=600)[0]
    with capsys.disabled():
        report(f"checkpoint_{ranks}_ranks", rows)
