"""How the ranks share a model: FSDP2 shards it, DDP copies it, behind the interface that DeepSpeed is behind too."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from trainers.models.sharding import shard_model
from trainers.optim.gradient_step import GradientStep


class Framework(Protocol):
    """A model on all ranks, whose gradients are the mean over them.

    Attributes:
        module: what is called.
    """

    module: nn.Module

    def computing(self) -> AbstractContextManager[object]:
        """Return the context in which the module is called."""

    def accumulating(self, last: bool) -> AbstractContextManager[object]:
        """Return the context of a minibatch, ``last`` of its batch or not: gradients are complete after the last."""

    def start(self, optimizer: Optimizer, schedule: LRScheduler, max_norm: float) -> None:
        """Take what an update needs; before the first minibatch, a collective."""

    def update(self) -> Tensor:
        """Clip, step, schedule, zero; return the global norm before clipping: fp32, 0-d."""

    def state(self) -> tuple[nn.Module, Optimizer]:
        """Return model and optimizer, plain or as FSDP2 shards them, to save or to load into; a collective."""

    def set_state(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Take over what `state` returned, after a full state was loaded into it; a collective."""

    def whole_weights(self) -> Iterable[tuple[str, Tensor]] | None:
        """Return the weights by name if the model does not hold them itself; None if it does."""


class _InPlace:
    """A framework that leaves fp32 parameters in the model, where torch's optimizers step on them."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def start(self, optimizer: Optimizer, schedule: LRScheduler, max_norm: float) -> None:
        """Take what an update needs."""
        self._optimizer = optimizer
        self._gradient_step = GradientStep(self._model, optimizer, schedule, max_norm)

    def update(self) -> Tensor:
        """Take a `GradientStep`."""
        return self._gradient_step()

    def state(self) -> tuple[nn.Module, Optimizer]:
        """Return model and optimizer themselves."""
        return self._model, self._optimizer

    def set_state(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Nothing to do: it was loaded in place."""

    def whole_weights(self) -> None:
        """The model holds them."""


class FullySharded(_InPlace):
    """FSDP2, see `shard_model`."""

    def __init__(
        self,
        model: nn.Module,
        mesh: DeviceMesh,
        compute_dtype: torch.dtype,
        *,
        reshard_after_forward: bool,
        cpu_offload: bool,
    ) -> None:
        super().__init__(model)
        self.module = model
        self._sharded: FSDPModule = shard_model(
            model,
            mesh,
            compute_dtype=compute_dtype,
            reshard_after_forward=reshard_after_forward,
            cpu_offload=cpu_offload,
        )
        self._keeps_weights = not reshard_after_forward

    def computing(self) -> AbstractContextManager[object]:
        """Nothing to do: FSDP casts."""
        return nullcontext()

    def accumulating(self, last: bool) -> AbstractContextManager[object]:
        """Where gathered weights stay, whole gradients stay with them: ranks talk once a batch."""
        if self._keeps_weights:
            self._sharded.set_reshard_after_backward(last)
            self._sharded.set_requires_gradient_sync(last)
        return nullcontext()


class Replicated(_InPlace):
    """DistributedDataParallel: fp32 weights on every rank, computed under autocast.

    Source: Li et al. 2020, arXiv:2006.15704.
    """

    def __init__(self, model: nn.Module, mesh: DeviceMesh, compute_dtype: torch.dtype) -> None:
        super().__init__(model)
        self.module: nn.Module = DistributedDataParallel(
            model, process_group=mesh.get_group(), gradient_as_bucket_view=True
        )
        self._device_type = mesh.device_type
        self._compute_dtype = compute_dtype

    def rehearse(self, loss: Callable[[], Tensor]) -> None:
        """Let DDP see in which order gradients come, by a backward pass that changes nothing else; a collective.

        It sorts them into other buckets after its first backward pass. If that were the first step's, a resumed
        training would begin with other buckets than it was interrupted with, and sums over more than two ranks would
        round differently.

        Args:
            loss: computes one.
        """
        loss().backward()
        self.module.zero_grad()

    def computing(self) -> AbstractContextManager[object]:
        """Autocast, unless it is computed in the weights' own dtype."""
        return torch.autocast(
            self._device_type, self._compute_dtype, enabled=self._compute_dtype != torch.float32, cache_enabled=False
        )

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        """Gradients are summed over ranks once, with the last minibatch."""
        assert isinstance(self.module, DistributedDataParallel)
        with nullcontext() if last else self.module.no_sync():
            yield
