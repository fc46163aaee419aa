import pytest
import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM

from testing.tiny_models.models import tiny_model
from testing.tiny_models.training import token_ids, train
from testing.tolerances.tolerances import assert_close
from trainers.lora.adapters import add_lora, merged_tensors
from trainers.optim.optimizer import build_optimizer


def train_steps(model, steps=3):
    optimizer = build_optimizer(model, 1e-2)
    return train(model, lambda: (optimizer.step(), optimizer.zero_grad()), steps)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_from_dense_to_dense(architecture, tmp_path):
    """The same function at first; trained, merged, saved, loaded by transformers: the same as with adapters."""
    base, ids = tiny_model(architecture, initializer_range=0.02), token_ids(2, 0)
    before, keys = base(ids).logits, list(base.state_dict())
    model = add_lora(base, rank=4, alpha=8, seed=3)
    assert torch.equal(model(input_ids=ids).logits, before)
    train_steps(model)
    adapted = model(input_ids=ids).logits
    state = dict(merged_tensors(model))
    assert list(state) == keys
    assert torch.equal(model(input_ids=ids).logits, adapted)  # (merging changes nothing)
    tiny_model(architecture).save_pretrained(tmp_path, state_dict=state)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert_close(loaded(ids).logits, adapted)
    assert not torch.allclose(adapted, before, atol=1e-2)


def test_only_adapters_are_trained():
    base = tiny_model()
    frozen = {name: value.clone() for name, value in base.state_dict().items()}
    model = add_lora(base, rank=4)
    assert {name.split(".")[-3] for name, p in model.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}
    train_steps(model)
    for name, value in model.get_base_model().state_dict().items():
        if ".lora_" not in name:
            assert torch.equal(value, frozen[name.replace(".base_layer", "")]), name


def test_adapters_depend_on_the_seed_alone():
    made = []
    for disturbance, seed in ((1, 5), (2, 5), (1, 6)):
        base = tiny_model()
        torch.manual_seed(disturbance)
        before = torch.get_rng_state()
        model = add_lora(base, rank=4, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        made.append(torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad]))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_a_model_in_bf16():
    """Adapters are in fp32 beside it; merged weights are in bf16, rounded once."""
    base = tiny_model().bfloat16()
    before = {name: value.float() for name, value in base.state_dict().items()}
    model = add_lora(base, rank=4, alpha=8)
    adapters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in adapters.values()} == {torch.float32}
    with torch.no_grad():
        for parameter in adapters.values():
            parameter.normal_(std=0.1)
    a, b = (p for name, p in adapters.items() if "layers.1.mlp.up_proj" in name)
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(dict(merged_tensors(model))[name], (before[name] + b.detach() @ a.detach() * 2).bfloat16())


def test_scale_dropout_and_targets():
    model = add_lora(tiny_model(), rank=4, alpha=12, dropout=0.25, target_modules=["q_proj", "mlp.up_proj"])
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    assert sorted({name.split(".")[-1] for name in layers}) == ["q_proj", "up_proj"] and len(layers) == 4
    for layer in layers.values():
        assert layer.scaling["default"] == 3.0
        assert layer.lora_dropout["default"].p == 0.25
        assert layer.lora_A["default"].weight.shape[0] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "rank=0"),
        ({"alpha": 0}, "alpha=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"target_modules": ["query"]}, "no linear layer of LlamaForCausalLM has a name that ends in query"),
    ],
)
def test_what_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        add_lora(tiny_model(), **arguments)


@pytest.mark.filterwarnings("ignore:The following .* keys did not match:RuntimeWarning")  # of peft's making
def test_stacked_experts_are_refused_before_they_are_trained():
    """peft turns targets of their projections by themselves into such."""
    with pytest.raises(ValueError, match="mlp.experts is no plain linear layer but ParamWrapper .* such as q_proj"):
        add_lora(tiny_model("glm4_moe"))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's, as in add_lora
def test_layers_that_cannot_be_merged():
    """peft's layers for embeddings are as little plain linear ones as those for quantised weights."""
    model = PeftModel(tiny_model(), LoraConfig(target_modules=["embed_tokens"]))
    with pytest.raises(ValueError, match="model.embed_tokens is no plain linear layer but Embedding"):
        dict(merged_tensors(model))
