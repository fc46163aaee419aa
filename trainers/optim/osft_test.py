"""OSFT on whole models: what it leaves, what it trains, and what is saved."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from testing.tiny_models.models import tiny_model
from testing.tiny_models.training import token_ids, train
from testing.tolerances.tolerances import assert_close
from trainers.optim.gradient_step import GradientStep
from trainers.optim.optimizer import build_optimizer
from trainers.optim.osft import apply_osft, dense_tensors, insert_osft_layers
from trainers.optim.osft_linear import osft_layers
from trainers.optim.projections import find_projections
from trainers.optim.schedule import build_schedule


def train_steps(model, steps=20, learning_rate=1e-2):
    optimizer = build_optimizer(model, learning_rate)
    update = GradientStep(model, optimizer, build_schedule(optimizer, "constant", num_training_steps=steps))
    return train(model, update, steps)


def weights(model):
    return {name: layer.weight.detach().clone() for name, layer in find_projections(model).items()}


@pytest.mark.parametrize("architecture", ["qwen3", "granite", "phi", "phi3", "gpt2"])
def test_every_architecture_from_dense_to_dense(architecture, tmp_path):
    """Split: the same function. Trained, saved under the dense keys, loaded by transformers: the same again."""
    model = tiny_model(architecture, num_hidden_layers=1, tie_word_embeddings=True, initializer_range=0.02)
    ids = token_ids(2, 0)
    before, keys = model(ids).logits, list(model.state_dict())
    apply_osft(model, 0.5)
    assert not any(hasattr(layer, "weight") for layer in osft_layers(model).values())
    assert_close(model(ids).logits, before, "logits after the split")
    train_steps(model, 3)
    state = dict(dense_tensors(model))
    assert list(state) == keys
    AutoModelForCausalLM.from_config(model.config).save_pretrained(tmp_path, state_dict=state)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert_close(loaded(ids).logits, model(ids).logits, "logits after loading")
    assert not torch.allclose(loaded(ids).logits, before, atol=1e-2)


def test_the_frozen_subspace_is_served_as_before():
    """Inputs along frozen directions give the same outputs as ever, and outputs along them depend on nothing else."""
    model = tiny_model()
    before = weights(model)
    apply_osft(model, 0.5)
    losses = train_steps(model)
    assert losses[-1] < losses[0]
    after = {name: layer.dense_weight() for name, layer in osft_layers(model).items()}
    assert after.keys() == before.keys()
    for name, old in before.items():
        u, s, vh = torch.linalg.svd(old, full_matrices=False)
        k = min(old.shape) // 2
        assert (after[name] - old).norm() > 0.05 * old.norm(), name  # (it was trained)
        for new_part, old_part in (
            (after[name] @ vh[:k].mT, u[:, :k] * s[:k]),
            (u[:, :k].mT @ after[name], s[:k, None] * vh[:k]),
        ):
            torch.testing.assert_close(
                new_part, old_part, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_unfreeze_0_leaves_matched_weights_bit_by_bit():
    model = tiny_model()
    before, embedding = weights(model), model.get_input_embeddings().weight.detach().clone()
    apply_osft(model, 0.0)
    train_steps(model, 3)
    assert all(torch.equal(after, before[name]) for name, after in weights(model).items())
    assert not torch.equal(model.get_input_embeddings().weight, embedding)


def test_unfreeze_1_is_full_fine_tuning():
    model, plain = tiny_model(), tiny_model()
    apply_osft(model, 1.0)
    assert train_steps(model, 3) == train_steps(plain, 3)
    for name, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.parametrize(("ratio", "rank_high"), [(0.25, 24), (0.5, 16), (0.9, 3), (0.99, None), (0.01, None)])
def test_how_many_directions_are_frozen(ratio, rank_high):
    model = tiny_model()
    apply_osft(model, ratio, ["q_proj"])
    layers = osft_layers(model)
    assert [layer.rank_high for layer in layers.values()] == ([rank_high] * 2 if rank_high else [])
    trained = [layer.weight.requires_grad for layer in find_projections(model, ["k_proj"]).values()]
    assert trained == [True, True]
    if rank_high is None:
        assert all(
            layer.weight.requires_grad == (ratio > 0.5) for layer in find_projections(model, ["q_proj"]).values()
        )


def test_resumed_from_the_state_of_the_factors():
    """Nothing is decomposed again: the same loss and the same parameters, bit by bit."""
    model = tiny_model()
    apply_osft(model, 0.3)
    train_steps(model, 2)
    with torch.device("meta"):
        resumed = tiny_model()
    insert_osft_layers(resumed, 0.3)
    resumed.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)
    resumed.model.rotary_emb = model.model.rotary_emb  # (not in the state dict)
    assert train_steps(resumed, 2) == train_steps(model, 2)
    for name, value in model.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_a_ratio_out_of_range(ratio):
    with pytest.raises(ValueError, match=f"unfreeze_ratio={ratio} must lie in 0..1"):
        apply_osft(tiny_model(), ratio)


def test_a_model_in_bf16():
    with pytest.raises(
        ValueError, match=r"weight of model.layers.0.self_attn.q_proj is torch.bfloat16, .* in fp32 and"
    ):
        apply_osft(tiny_model().bfloat16(), 0.5)


def test_a_model_on_meta():
    with torch.device("meta"):
        model = tiny_model()
    with pytest.raises(ValueError, match="are on meta"):
        apply_osft(model, 0.5)
