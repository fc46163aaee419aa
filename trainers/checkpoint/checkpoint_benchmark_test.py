"""How long a save stops the training, and how fast checkpoints are written, verified and loaded."""

import time

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from testing.distributed.case import DistributedTest
from trainers.checkpoint.full_state import FullStateSaver, load_full_state
from trainers.checkpoint.ranks import Ranks
from trainers.checkpoint.store import CheckpointStore

LAYERS, WIDTH = 24, 2048  # 0.4 GB of fp32 weights, and twice that of AdamW's state


class TestFullState(DistributedTest):
    world_size = [1, 2]
    timeout = 600

    def test_speed(self, tmp_path):
        model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, device=self.device) for _ in range(LAYERS)))
        mesh = init_device_mesh(self.device.type, (self.world_size,))
        for layer in model:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.zeros(1, WIDTH, device=self.device)).sum().backward()
        optimizer.step()
        store = CheckpointStore(tmp_path, Ranks.of_their_own(), keep_last=1)
        rows = []

        def timed(name, work):
            dist.barrier()
            began = time.perf_counter()
            result = work()
            dist.barrier()
            rows.append((name, time.perf_counter() - began))
            return result

        with FullStateSaver(store) as saver:
            for step, name in enumerate(("first save", "later save")):
                timed(f"{name}: training stops", lambda step=step: saver.save(step, model, optimizer))
                checkpoint = timed(f"{name}: in the background", saver.wait)
        timed("verify", lambda: store.damage(checkpoint))
        timed("load", lambda: load_full_state(checkpoint, model, optimizer, ranks=store.ranks))
        size = sum(file.size for file in checkpoint.files.values())
        if self.rank == 0:
            print(f"\n{self.world_size} ranks, {size / 1e9:.2f} GB, torch {torch.__version__}, {self.device.type}")
            for name, seconds in rows:
                print(f"| {name} | {seconds:.2f} s | {size / 1e6 / seconds:.0f} MB/s |")
