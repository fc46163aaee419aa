"""Validation is the mean over all tokens, at every world size; what depends on it follows."""

import math

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from testing.distributed.case import DistributedTest
from testing.tolerances.tolerances import assert_close
from trainers.sft.loop import train
from trainers.sft.sft_cases import Listener, config_of, mean_loss, worker_of_test, write_case


class TestValidation(DistributedTest):
    world_size = [1, 2, 4]

    def test_mean_over_all_tokens(self, tmp_path):
        if self.rank == 0:
            write_case(tmp_path)
        dist.barrier()
        config = config_of(
            tmp_path,
            validation_data=tmp_path / "data.jsonl",
            validate_every_epoch=True,
            validate_every_samples=10,
            save_best=True,
            compute_dtype="float32",
        )
        listener = Listener()
        outcome = train(config, worker_of_test(self.device), [listener])
        # Batches of 5, 5 and 3 samples: 10 samples are passed at steps 2, 5; epochs end at 3 and 6 (20 at 5).
        assert [record["step"] for record in listener.validations] == [2, 3, 5, 6]
        best = [step for kind, step in listener.saves if kind == "best model"]
        losses = [record["loss"] for record in listener.validations]
        assert outcome.progress.best_validation_loss == min(losses)
        assert best[-1] == listener.validations[losses.index(min(losses))]["step"]
        model = AutoModelForCausalLM.from_pretrained(
            tmp_path / f"output/best/step-{best[-1]:010d}", dtype=torch.float32, attn_implementation="eager"
        )
        assert_close(torch.tensor(min(losses)), mean_loss(model, config.data), "validation loss")
        assert len(list((tmp_path / "output/best").glob("step-*"))) == 1
        assert not any(math.isnan(loss) for loss in losses)
