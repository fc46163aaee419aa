"""DeepSpeed's ZeRO as a framework: stage 2 shards gradients and optimizer, stage 3 the weights too.

A full state is what FSDP2 would save: weights and moments by name and shape. Any number of ranks resumes from it.

Source: Rajbhandari et al. 2020, arXiv:1910.02054.
"""

import importlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from trainers.checkpoint.module_state import all_tensors, without_aliases


class ZeroSharded:
    """ZeRO: fp32 weights beside the optimizer's moments, and a copy in the compute dtype for the passes.

    Gradients are summed in fp32, over ranks and over the minibatches of a batch. `start` comes before the first pass.

    Args:
        model: whole on every rank, in fp32, on the CPU, all of its weights trained.
        mesh: one dimension, all ranks.
        compute_dtype: of forward and backward pass.
        stage: 2 or 3.

    Attributes:
        module: what is called.
    """

    def __init__(self, model: nn.Module, mesh: DeviceMesh, compute_dtype: torch.dtype, stage: int) -> None:
        self.module = model
        self._model, self._mesh, self._compute_dtype, self._stage = model, mesh, compute_dtype, stage

    def computing(self) -> AbstractContextManager[object]:
        """Nothing to do: the weights are in the compute dtype."""
        return nullcontext()

    def accumulating(self, last: bool) -> AbstractContextManager[object]:
        """Nothing to do: the gradients of each minibatch go to the ranks that keep them."""
        return nullcontext()

    def start(self, optimizer: Optimizer, schedule: LRScheduler, max_norm: float) -> None:
        """Hand the model to DeepSpeed; a collective.

        Args:
            optimizer: of the model's parameters, which it treats entry by entry; it gets flat fp32 shards for them.
            schedule: of the optimizer.
            max_norm: bound on the global norm of the gradients.
        """
        self._optimizer, self._schedule = optimizer, schedule
        self._groups: list[list[nn.Parameter]] = [list(group["params"]) for group in optimizer.param_groups]
        exact = {parameter: parameter.detach() for parameter in self._model.parameters()}
        self._deepspeed = _imported(self._mesh.device_type)
        self._engine, *_ = self._deepspeed.initialize(
            model=self._model, optimizer=optimizer, config=self._settings(max_norm), dist_init_required=False
        )
        self.module = self._engine
        for parameter, value in exact.items():
            # (it has made the fp32 weights of those that it had rounded to the compute dtype)
            self._set_whole(parameter, value.to(self._engine.device))

    def update(self) -> Tensor:
        """Clip, step, schedule, zero, as `GradientStep` does; a norm that is not finite skips the step.

        Returns:
            Global norm of the gradients before clipping: fp32, 0-d; infinity if the step was skipped.
        """
        self._engine.step()
        self._schedule.step()
        return torch.as_tensor(self._engine.get_global_grad_norm(), dtype=torch.float32, device=self._engine.device)

    def whole_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the fp32 weights and the buffers by name, each whole, gathered when it is asked for; a collective."""
        for name, tensor in self._tensors().items():
            yield name, self._whole(tensor) if isinstance(tensor, nn.Parameter) else tensor

    def state(self) -> tuple[nn.Module, Optimizer]:
        """Return copies of model and optimizer, sharded as FSDP2 would, to save or to load into; a collective.

        As long as they are kept they take the memory of this rank's share of weights and moments, in fp32.
        """
        tensors = {
            name: nn.Parameter(self._share(tensor)) if isinstance(tensor, nn.Parameter) else tensor
            for name, tensor in self._tensors().items()
        }
        shares = {tensor: tensors[name] for name, tensor in self._tensors().items()}
        groups = [
            {**group, "params": [shares[parameter] for parameter in parameters]}
            for group, parameters in zip(self._optimizer.param_groups, self._groups, strict=True)
        ]
        optimizer = Optimizer(groups, {})
        self._link_moments()
        for flat, state in list(self._optimizer.state.items())[:1]:  # (the others' are alike)
            for parameter in (parameter for parameters in self._groups for parameter in parameters):
                optimizer.state[shares[parameter]] = {
                    key: self._share(parameter, key) if value.shape == flat.shape else value.clone()
                    for key, value in state.items()
                }
        return _Copy(tensors), optimizer

    def set_state(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Take over what `state` returned, after a full state was loaded into it; a collective."""
        for group, saved in zip(self._optimizer.param_groups, optimizer.param_groups, strict=True):
            group.update({key: value for key, value in saved.items() if key != "params"})
        state: dict[str, Tensor] = next(iter(optimizer.state.values()), {})
        moments = [key for key, value in state.items() if isinstance(value, DTensor)]
        zero = self._engine.optimizer
        for flat in zero.fp32_partitioned_groups_flat if self._stage == 3 else zero.single_partition_of_fp32_groups:
            self._optimizer.state[flat] = {
                key: torch.zeros_like(flat) if key in moments else value.clone() for key, value in state.items()
            }
        self._link_moments()
        shares = all_tensors(model)
        for name, parameter in self._tensors().items():
            share = shares[name]
            if isinstance(share, DTensor):
                whole = share.full_tensor().detach()
                with self._deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                    parameter.data.copy_(whole)
                self._set_whole(parameter, whole)
                for key in moments:
                    self._set_whole(parameter, optimizer.state[share][key].full_tensor(), key)

    def _settings(self, max_norm: float) -> dict[str, Any]:
        return {
            "train_micro_batch_size_per_gpu": 1,  # (asked for, and used in messages alone)
            "managed_gradient_accumulation": False,  # (batches differ in their number of minibatches)
            "zero_optimization": {"stage": self._stage},
            "zero_allow_untested_optimizer": True,
            "gradient_clipping": max_norm,
            "bf16": {"enabled": self._compute_dtype == torch.bfloat16},
            "data_types": {"grad_accum_dtype": "fp32"},
            "communication_data_type": "fp32",
        }

    def _tensors(self) -> dict[str, Tensor]:
        return without_aliases(all_tensors(self._model))

    def _link_moments(self) -> None:
        """Let stage 2 find moments by parameter; itself it does so after the first group's first step only."""
        zero = self._engine.optimizer
        if self._stage == 2:
            for parameters, flat in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
                self._deepspeed.utils.lazy_init_hp_params_optimizer_state(parameters, flat, self._optimizer.state)

    def _whole(self, parameter: Tensor, key: str | None = None) -> Tensor:
        """The fp32 weight of a parameter or, by its key, a moment."""
        utils = self._deepspeed.utils
        whole: Tensor = (
            utils.safe_get_full_fp32_param(parameter)
            if key is None
            else utils.safe_get_full_optimizer_state(parameter, key)
        )
        return whole

    def _share(self, parameter: Tensor, key: str | None = None) -> DTensor:
        share = distribute_tensor(self._whole(parameter, key), self._mesh, [Shard(0)], src_data_rank=None).clone()
        assert isinstance(share, DTensor)
        return share  # (no view, which would keep the whole)

    def _set_whole(self, parameter: Any, value: Tensor, key: str | None = None) -> None:
        """Set what `_whole` returns."""
        utils, kind = self._deepspeed.utils, "full"
        if self._stage == 3:
            # (its function for whole values takes no parameter whose last shard is padded)
            size, kind = parameter.ds_tensor.numel(), "local"
            padded = value.new_zeros(size * self._mesh.size())
            padded[: value.numel()] = value.flatten()
            value = padded[self._mesh.get_local_rank() * size :][:size]
        if key is None:
            getattr(utils, f"safe_set_{kind}_fp32_param")(parameter, value)
        else:
            getattr(utils, f"safe_set_{kind}_optimizer_state")(parameter, value, key)


class _Copy(nn.Module):
    """Tensors by the names that a model has them under."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._named = tensors

    def state_dict(self, **_: Any) -> dict[str, Any]:  # type: ignore[override]
        return dict(self._named)


def _imported(device_type: str) -> Any:
    deepspeed: Any = importlib.import_module("deepspeed")  # keep: an extra
    found = deepspeed.accelerator.get_accelerator().device_name()
    if found != device_type:
        raise ValueError(
            f"device {device_type} and DeepSpeed, which has found {found}: set DS_ACCELERATOR={device_type} in the "
            "environment"
        )
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # (it would be compiled, for what is not used here)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return deepspeed
