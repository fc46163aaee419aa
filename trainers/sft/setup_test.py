"""A training is set up as it was asked for, or refused by name."""

import pytest
from transformers import AutoTokenizer

from testing.distributed.case import DistributedTest
from trainers.sft.setup import set_up
from trainers.sft.setup_model import set_up_model
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

    def test_a_training_without_an_end_warms_up(self, tmp_path):
        write_case(tmp_path)
        config = config_of(tmp_path, infinite=True, schedule="constant_with_warmup", warmup_steps=7)
        training = set_up(config, worker_of_test(self.device))
        assert training.total_steps is None and training.schedule.get_last_lr() == [0.0, 0.0]

    def set_up(self, config):
        return set_up_model(config, worker_of_test(self.device), AutoTokenizer.from_pretrained(config.model))
