"""A training is set up as it was asked for, or refused by name."""

import os

import pytest
import torch
from transformers import AutoTokenizer

from testing.distributed.case import DistributedTest
from trainers.sft.setup import set_up
from trainers.sft.setup_model import _largest_minibatch, loss_of, set_up_model
from trainers.sft.sft_cases import config_of, worker_of_test, write_case


class TestSetUp(DistributedTest):
    world_size = 1

    @pytest.mark.parametrize("changes", [{"lora_rank": 2, "lora_targets": ["lm_head"]}, {"osft_targets": ["lm_head"]}])
    def test_a_fused_loss_and_another_head(self, tmp_path, changes):
        """It would go by the head's own weight."""
        write_case(tmp_path, "llama")
        config = config_of(tmp_path, **({"osft_unfreeze": 0.5} if "osft_targets" in changes else {}), **changes)
        with pytest.raises(ValueError, match=r"loss='fused': the head of LlamaForCausalLM is no linear layer but"):
            self.set_up(config)
        self.set_up(config.model_copy(update={"loss": "transformers"}))

    @pytest.mark.parametrize("packing", ["best_fit", "padded"])
    def test_memory_is_measured_within_the_models_positions(self, tmp_path, packing):
        """GPT-2 looks them up: on a GPU one beyond them is the end of the process."""
        write_case(tmp_path, "gpt2")
        config = config_of(tmp_path, packing=packing, max_tokens_per_rank=150)
        _, model, framework = self.set_up(config)
        largest = _largest_minibatch(config, model)
        assert largest["position_ids"].max() == 63 and largest["input_ids"].numel() >= 150
        assert loss_of(framework, largest, self.device).isfinite()

    def test_a_training_without_an_end_warms_up(self, tmp_path):
        write_case(tmp_path)
        config = config_of(tmp_path, infinite=True, schedule="constant_with_warmup", warmup_steps=7)
        training = set_up(config, worker_of_test(self.device))
        assert training.total_steps is None and training.schedule.get_last_lr() == [0.0, 0.0]

    def test_deterministic_kernels_are_asked_for(self, tmp_path, monkeypatch):
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
        write_case(tmp_path)
        for asked in (False, True):
            set_up(config_of(tmp_path, deterministic=asked), worker_of_test(self.device))
            assert torch.are_deterministic_algorithms_enabled() == asked
            assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == asked

    def set_up(self, config):
        return set_up_model(config, worker_of_test(self.device), AutoTokenizer.from_pretrained(config.model))
