import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from trainers.sft import measurement
from trainers.sft.measurement import Meter, flops_per_token, peak_flops, quadratic_work

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """A clock that shows what it is set to."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(measurement.time, "perf_counter", lambda: Clock.now)
    return Clock


def test_records_come_one_step_later_and_none_is_lost(clock):
    meter = Meter(CPU, flops_per_token=3.0, peak_flops=60.0)
    loss, norm = torch.tensor(1.5), torch.tensor(0.5)
    clock.now += 2
    assert meter.step({"step": 1, "batch_tokens": 10}, loss, norm) is None
    loss.fill_(9)  # (the next step's)
    clock.now += 4
    first = {"step": 1, "batch_tokens": 10, "loss": 1.5, "grad_norm": 0.5, "seconds": 2.0, "tokens_per_second": 5.0}
    assert meter.step({"step": 2, "batch_tokens": 10}, loss, norm) == first | {"mfu": 0.25}
    clock.now += 100  # (a validation)
    second = meter.flush()
    assert second is not None and (second["step"], second["loss"], second["seconds"]) == (2, 9.0, 4.0)
    assert meter.flush() is None
    meter.restart()
    clock.now += 1
    assert meter.step({"step": 3, "batch_tokens": 10}, loss, norm) is None
    third = meter.flush()
    assert third is not None and third["seconds"] == 1.0


def test_a_flush_between_does_not_stop_the_clock(clock):
    meter = Meter(CPU, 1.0, None)
    clock.now += 1
    meter.step({"batch_tokens": 1}, torch.tensor(0.0), torch.tensor(0.0))
    clock.now += 1
    meter.flush()
    clock.now += 1
    meter.step({"batch_tokens": 1}, torch.tensor(0.0), torch.tensor(0.0))
    record = meter.flush()
    assert record is not None and record["seconds"] == 2.0 and "mfu" not in record


def test_no_peak_of_a_cpu():
    assert peak_flops(CPU) is None


@pytest.mark.parametrize("tied", [False, True])
def test_flops(tied):
    config = LlamaConfig(
        vocab_size=10, hidden_size=8, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2,
        tie_word_embeddings=tied,
    )  # fmt: skip
    matrices = 3 * (4 * 8 * 8 + 3 * 8 * 16) + 10 * 8
    model = LlamaForCausalLM(config)
    assert flops_per_token(model, mean_length=5.0) == 6 * (matrices + 3 * 8 * 5)
    assert quadratic_work(model) == pytest.approx(4.5 * 3 * 8 / matrices)


def test_flops_of_wide_heads_and_frozen_weights():
    config = Qwen3Config(
        vocab_size=10, hidden_size=8, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    mlp, attention = 3 * 3 * 8 * 16, 3 * (2 * 8 * 32 + 2 * 8 * 16)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("mlp" not in name)
    assert flops_per_token(model, mean_length=5.0) == 6 * (attention + 10 * 8) + 4 * mlp + 6 * 3 * 32 * 5
