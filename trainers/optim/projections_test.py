import pytest
from torch import nn

from testing.tiny_models.models import tiny_model
from trainers.optim.projections import find_projections

ATTENTION = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
GATED = [*ATTENTION, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
PHI = [*ATTENTION[:3], "self_attn.dense", "mlp.fc1", "mlp.fc2"]
PHI3 = ["self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"]
GPT2 = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        *((gated, GATED) for gated in ("llama", "mistral", "qwen2", "qwen3", "granite", "gemma2")),
        ("phi", PHI),
        ("phi3", PHI3),
        ("gpt2", GPT2),
    ],
)
def test_every_projection_of_a_block_and_nothing_else(architecture, expected):
    found = find_projections(tiny_model(architecture, num_hidden_layers=1))
    assert {".".join(name.split(".")[-2:]) for name in found} == set(expected)
    assert len(found) == len(expected)


def test_patterns_end_a_name_at_a_dot():
    model = tiny_model()
    assert list(find_projections(model, ["layers.1.mlp.up_proj"])) == ["model.layers.1.mlp.up_proj"]
    assert list(find_projections(model, ["q_proj"])) == [f"model.layers.{n}.self_attn.q_proj" for n in (0, 1)]
    with pytest.raises(ValueError, match="LlamaForCausalLM has a name that ends in proj; its linear layers are model"):
        find_projections(model, ["proj"])


def test_an_idle_pattern_among_others_is_an_error():
    with pytest.raises(ValueError, match="ends in up_porj; its linear layers are .*, ...: give patterns that match"):
        find_projections(tiny_model(), ["q_proj", "up_porj"])


def test_a_tied_head_is_refused():
    assert list(find_projections(tiny_model(), ["lm_head"])) == ["lm_head"]
    with pytest.raises(ValueError, match="the weight of lm_head in LlamaForCausalLM is also another layer's, which"):
        find_projections(tiny_model("llama_tied"), ["lm_head"])


def test_a_model_without_projections():
    with pytest.raises(ValueError, match=r"no linear layer of Sequential .* its linear layers are 0: give"):
        find_projections(nn.Sequential(nn.Linear(2, 2)))
