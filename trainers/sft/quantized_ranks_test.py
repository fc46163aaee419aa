"""Adapters on weights in four bits (QLoRA) as a whole training: what is learnt, saved and resumed."""

import shutil

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from testing.distributed.case import DistributedTest
from testing.tolerances.tolerances import assert_close
from trainers.checkpoint.full_state import MODEL
from trainers.checkpoint.tensor_files import saved_tensors
from trainers.sft.loop import train
from trainers.sft.sft_cases import Listener, config_of, mean_loss, worker_of_test, write_case


class TestQuantised(DistributedTest):
    world_size = [1, 2]
    timeout = 180  # (compiles on a GPU)

    def test_whole_training(self, tmp_path):
        worker, whole, resumed = worker_of_test(self.device), Listener(), Listener()
        if worker.rank == 0:
            write_case(tmp_path, "qwen2", hidden_size=64, intermediate_size=128)  # (has biases)
        dist.barrier()
        config = config_of(
            tmp_path,
            **{"quantize": "nf4", "lora_rank": 4, "framework": "ddp", "compute_dtype": "float32"},
            compile=self.device.type == "cuda",
            validation_data=tmp_path / "data.jsonl",
            validate_every_steps=3,
            save_every_steps=3,
            steps=6,
        )
        train(config, worker, [whole])
        again = tmp_path / "again"
        if worker.rank == 0:
            shutil.copytree(config.output / "states/step-0000000003", again / "states/step-0000000003")
        dist.barrier()
        train(config.model_copy(update={"output": again}), worker, [resumed])
        assert resumed.resumed_at == 3 and resumed.losses == whole.losses[3:]
        assert whole.validations[1]["loss"] < whole.validations[0]["loss"]
        if worker.rank == 0:
            check_saved(config, again, whole.validations[1]["loss"])


def check_saved(config, again, loss):
    state = saved_tensors(config.output / "states/step-0000000006", MODEL)
    assert any(".lora_" in name for name in state) and not any("base_layer" in name for name in state)
    folder = config.output / "models/step-0000000006"
    for path in folder.glob("*.safetensors"):
        assert path.read_bytes() == (again / "models/step-0000000006" / path.name).read_bytes()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    assert_close(torch.tensor(loss), mean_loss(model, config.data), "loss")
    former = AutoModelForCausalLM.from_pretrained(config.model, dtype=torch.float32).state_dict()
    for name, weight in model.state_dict().items():
        same = torch.equal(weight[: len(former[name])], former[name])
        assert same == ("_proj.weight" not in name), name
