"""OSFT under FSDP2: the same as on one rank, however the factors come to lie on the ranks."""

import pytest
import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from testing.distributed.case import DistributedTest
from testing.tiny_models.models import tiny_model
from testing.tiny_models.shards import shard, whole, whole_state
from testing.tiny_models.training import token_ids, train
from testing.tolerances.tolerances import assert_close
from trainers.optim.gradient_step import GradientStep
from trainers.optim.optimizer import build_optimizer
from trainers.optim.osft import apply_osft, dense_tensors, insert_osft_layers
from trainers.optim.osft_decompose import load_dense_weights
from trainers.optim.osft_linear import osft_layers
from trainers.optim.projections import find_projections
from trainers.optim.schedule import build_schedule
from trainers.parallel.ranks import RankError


def update_of(model):
    optimizer = build_optimizer(model, 1e-3)
    return GradientStep(model, optimizer, build_schedule(optimizer, "constant", num_training_steps=9), max_norm=0.1)


def osft_llama(device, **changes):
    """The split model, each rank having decomposed its share: all have the same factors."""
    model = tiny_model(**changes).to(device)
    apply_osft(model, 0.5)
    return model


class TestTraining(DistributedTest):
    world_size = [1, 2, 4]

    def test_training_is_that_of_one_rank(self):
        single, model = osft_llama(self.device), osft_llama(self.device)
        for number, block in enumerate(model.model.layers):
            model.model.layers[number] = checkpoint_wrapper(block)
        shard(model)
        norms = []
        for each, rank, num_ranks in ((single, 0, 1), (model, self.rank, self.world_size)):
            update = update_of(each)
            norms.append([])
            train(each, lambda u=update, n=norms[-1]: n.append(u()), 4, rank, num_ranks)
        assert_close(torch.stack(norms[1]), torch.stack(norms[0]), "norms")
        expected = whole_state(single)
        for name, value in whole_state(model).items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5, msg=lambda t, n=name: f"{n}: {t}")
        for layer in osft_layers(model).values():
            assert (whole(layer.U_low).mT @ whole(layer.U_high)).abs().max() < 1e-5
            assert (whole(layer.V_low).mT @ whole(layer.V_high)).abs().max() < 1e-5
        dense, expected = {name: whole(value) for name, value in dense_tensors(model)}, dict(dense_tensors(single))
        assert list(dense) == list(expected) == list(tiny_model().state_dict())
        for name, value in dense.items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5, msg=lambda t, n=name: f"{n}: {t}")


class TestSettingUp(DistributedTest):
    world_size = 4

    def test_filled_after_sharding(self):
        """From meta: no rank ever holds the model; the factors are those that splitting the whole model gives."""
        with torch.device("meta"):
            model = tiny_model()
        layers = insert_osft_layers(model, 0.5)
        shard(model)
        model.to_empty(device=self.device)
        dense = {name: layer.weight for name, layer in find_projections(tiny_model().to(self.device)).items()}
        load_dense_weights(layers, dense)
        expected = osft_llama(self.device).state_dict()
        for name, layer in layers.items():
            for factor, value in layer.named_parameters():
                assert torch.equal(whole(value), expected[f"{name}.{factor}"]), (name, factor)

    def test_a_weight_of_another_shape_is_an_error_on_every_rank(self):
        """One of them decomposes it, and the others would wait for the result."""
        model = tiny_model().to(self.device)
        dense = {name: layer.weight.detach() for name, layer in find_projections(model).items()}
        wrong = "model.layers.1.mlp.up_proj"
        dense[wrong] = dense[wrong].mT
        match = rf"^rank \d: ValueError: the dense weight of {wrong} is \(32, 42\), the layer needs \(42, 32\)$"
        with pytest.raises(RankError, match=match):
            load_dense_weights(insert_osft_layers(model, 0.5), dense)

    def test_resumed_from_a_checkpoint(self):
        model, options = shard(osft_llama(self.device)), StateDictOptions(full_state_dict=True)
        train(model, update_of(model), 2, self.rank, self.world_size)
        saved = {name: value.clone() for name, value in get_model_state_dict(model, options=options).items()}
        resumed = tiny_model(seed=1).to(self.device)
        insert_osft_layers(resumed, 0.5)
        shard(resumed)
        set_model_state_dict(resumed, saved, options=options)
        for each in (model, resumed):
            train(each, update_of(each), 2, self.rank, self.world_size)
        expected = whole_state(model)
        for name, value in whole_state(resumed).items():
            assert torch.equal(value, expected[name]), name

    def test_bf16_compute(self):
        """Parameters and gradients stay in fp32, and factors orthogonal in fp32."""
        model = osft_llama(self.device, initializer_range=0.02)
        expected = model(token_ids(2, 0, self.device)).logits.detach()
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        for block in model.model.layers:
            fully_shard(block, mp_policy=policy)
        fully_shard(model, mp_policy=policy)
        logits = model(token_ids(2, 0, self.device)).logits.detach()
        assert logits.dtype == torch.bfloat16
        assert_close(logits.float(), expected, computed_in=torch.bfloat16)
        train(model, update_of(model), 4, self.rank, self.world_size)
        for layer in osft_layers(model).values():
            assert layer.U_low.dtype == torch.float32
            assert (whole(layer.U_low).mT @ whole(layer.U_high)).abs().max() < 1e-5
            assert (whole(layer.V_low).mT @ whole(layer.V_high)).abs().max() < 1e-5


class TestHybridSharding(DistributedTest):
    world_size = 4

    def test_training_is_that_of_one_rank(self):
        """Two replicas of two shards: overlaps are added up over the shards alone."""
        single, model = osft_llama(self.device), osft_llama(self.device)
        shard(model, init_device_mesh(self.device.type, (2, 2), mesh_dim_names=("replicas", "shards")))
        train(single, update_of(single), 2)
        train(model, update_of(model), 2, self.rank, self.world_size)
        expected = whole_state(single)
        for name, value in whole_state(model).items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5, msg=lambda t, n=name: f"{n}: {t}")
