import copy

import pytest
import torch
from torch import nn, optim

from testing.tiny_models.models import tiny_model
from testing.tiny_models.training import backward, token_ids, train
from trainers.optim.optimizer import JoinedOptimizer, build_optimizer

HIDDEN = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def group_names(model, groups):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [sorted(names[parameter] for parameter in group["params"]) for group in groups]


def matrices(model, *more):
    ends = tuple(f"{name}.weight" for name in (*HIDDEN, *more))
    return sorted(name for name, _ in model.named_parameters() if name.endswith(ends))


def rest(model, *taken):
    return sorted(set(dict(model.named_parameters())) - set().union(*taken))


class TestGroups:
    def test_only_matrices_decay(self):
        model = tiny_model(attention_bias=True)
        optimizer = build_optimizer(model, 1e-3, weight_decay=0.1)
        decayed = matrices(model, "lm_head")
        assert group_names(model, optimizer.param_groups) == [decayed, rest(model, decayed)]
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]

    def test_a_tied_output_layer_is_an_embedding(self):
        model = tiny_model(tie_word_embeddings=True)
        decayed = matrices(model)
        groups = build_optimizer(model, 1e-3, weight_decay=0.1).param_groups
        assert group_names(model, groups) == [decayed, rest(model, decayed)]

    def test_frozen_parameters_are_left_out(self):
        model = tiny_model()
        model.requires_grad_(False)
        model.lm_head.requires_grad_(True)
        assert group_names(model, build_optimizer(model, 1e-3).param_groups) == [["lm_head.weight"]]

    def test_defaults(self):
        optimizer = build_optimizer(tiny_model(), 1e-3)
        assert type(optimizer) is optim.AdamW
        for group in optimizer.param_groups:
            assert (group["lr"], group["betas"], group["eps"]) == (1e-3, (0.9, 0.95), 1e-8)
            assert group["weight_decay"] == 0.0 and group["fused"] is True

    def test_options_reach_the_optimizer(self):
        optimizer = build_optimizer(tiny_model(), 1e-3, name="sgd", options={"momentum": 0.5, "nesterov": True})
        assert type(optimizer) is optim.SGD
        assert all(group["momentum"] == 0.5 and group["nesterov"] for group in optimizer.param_groups)


class TestMuon:
    def test_matrices_between_embedding_and_output_layer(self):
        model = tiny_model()
        groups = build_optimizer(model, 1e-3, name="muon", weight_decay=0.1).param_groups
        hidden = matrices(model)
        assert group_names(model, groups) == [hidden, ["lm_head.weight"], rest(model, hidden, ["lm_head.weight"])]
        assert [group["weight_decay"] for group in groups] == [0.1, 0.1, 0.0]

    def test_stacked_experts_are_no_matrices(self):
        model = tiny_model("qwen3_moe")
        muon, adamw, _ = build_optimizer(model, 1e-3, name="muon", weight_decay=0.1).param_groups
        assert {parameter.ndim for parameter in muon["params"]} == {2}
        assert model.model.layers[0].mlp.experts.down_proj in set(adamw["params"]) and adamw["weight_decay"] == 0.1

    def test_it_is_torchs_muon_beside_torchs_adamw(self):
        model, reference = tiny_model(), tiny_model()
        optimizer = build_optimizer(model, 1e-2, name="muon", weight_decay=0.1)
        by_name = dict(reference.named_parameters())
        hidden = matrices(reference)
        muon = optim.Muon([by_name[n] for n in hidden], lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        others = [by_name[n] for n in rest(reference, hidden, ["lm_head.weight"])]
        groups = [{"params": [reference.lm_head.weight], "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        adamw = optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), fused=True)

        def update():
            for each in (muon, adamw):
                each.step()
                each.zero_grad()

        train(model, lambda: (optimizer.step(), optimizer.zero_grad()), 3)
        train(reference, update, 3)
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, by_name[name]), name

    def test_state_goes_through_a_checkpoint(self):
        """Restored, it continues bit for bit, and a new learning rate reaches both parts."""
        model = tiny_model()
        optimizer = build_optimizer(model, 1e-2, name="muon")
        train(model, optimizer.step, 2)
        twin = copy.deepcopy(model)
        restored = build_optimizer(twin, 1.0, name="muon")
        restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for each, its_optimizer in ((model, optimizer), (twin, restored)):
            for group in its_optimizer.param_groups:
                group["lr"] = 5e-3
            its_optimizer.zero_grad()
            backward(each, token_ids(4, 9))
            before = each.lm_head.weight.clone(), each.model.layers[0].mlp.up_proj.weight.clone()
            its_optimizer.step()
            assert not torch.equal(before[0], each.lm_head.weight)
            assert not torch.equal(before[1], each.model.layers[0].mlp.up_proj.weight)
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.equal(ours, theirs)
        assert isinstance(restored, JoinedOptimizer)

    def test_a_model_without_hidden_matrices(self):
        with pytest.raises(ValueError, match="this model trains none: use adamw"):
            build_optimizer(nn.Embedding(4, 4), 1e-3, name="muon")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "adamwide"}, "unknown optimizer 'adamwide'; there are adagrad, adam, adamax, adamw, muon, nadam"),
        ({"options": {"momentum": 0.9, "beta": 1}}, "adamw has no option beta, momentum; it has amsgrad, betas,"),
        ({"options": {"weight_decay": 0.1}}, "adamw has no option weight_decay"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be > 0"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0 must be >= 0"),
        ({"options": {"betas": [2, 3]}}, r"optimizer adamw with lr=0.001, betas=\[2, 3\]: Invalid beta parameter"),
        ({"options": {"eps": "1e-8"}}, "optimizer adamw with .*eps='1e-8': "),
        (
            {"name": "sgd", "options": {"nesterov": True}},
            "sgd with lr=0.001, nesterov=True: Nesterov momentum requires",
        ),
    ],
)
def test_what_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_optimizer(nn.Linear(2, 2), **{"learning_rate": 1e-3, **arguments})


def test_nothing_to_train():
    with pytest.raises(ValueError, match="no parameter of the model requires a gradient"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False), 1e-3)
