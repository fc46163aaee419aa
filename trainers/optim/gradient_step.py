"""One update of the parameters from the gradients that a batch has accumulated."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from trainers.optim.gradients import clip_gradients
from trainers.optim.osft_projection import project_gradients, project_parameters


class GradientStep:
    """Clip, step, schedule, zero; for a model with OSFT layers, gradients and parameters are projected too.

    The order is: project the gradients off the frozen subspaces, clip what is left by its global norm, step the
    optimizer, project the parameters, step the schedule, drop the gradients. Clipping comes after the projection
    because otherwise the part that is thrown away would shrink the part that is kept.

    A gradient norm that is not finite skips the update: parameters and optimizer state stay what they were, and
    ``num_skipped`` counts it. Only the learning rate moves on. Optimizers with fused kernels (AdamW and Adam)
    decide that on the device, and the host waits for nothing; for others the host reads the norm.

    The caller takes no step for a batch in which no token counts (``batch_num_loss_counted_tokens == 0``).

    Args:
        model: whose gradients are used, after ``fully_shard`` if it is sharded.
        optimizer: of the parameters of the model.
        schedule: stepped once per call.
        max_norm: bound on the global norm of the gradients; infinity only measures.

    Attributes:
        num_skipped: updates skipped so far: fp32, 0-d, on the device of the gradients once there was a step.

    Raises:
        ValueError: ``max_norm`` is not positive.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, schedule: LRScheduler, max_norm: float = 1.0) -> None:
        if not max_norm > 0:
            raise ValueError(f"max_norm must be > 0, got {max_norm}; infinity switches clipping off")
        self._model, self._optimizer, self._schedule, self._max_norm = model, optimizer, schedule, max_norm
        self._skips_on_device = getattr(optimizer, "_step_supports_amp_scaling", False)
        self.num_skipped = torch.zeros(())

    def __call__(self) -> Tensor:
        """Update the parameters; collective for a sharded model.

        Returns:
            Global norm of the gradients after the projection and before clipping: fp32, 0-d, on their device, the same
            on every rank. Reading it on the host waits for the device.
        """
        project_gradients(self._model)
        norm = clip_gradients(self._model.parameters(), self._max_norm)
        not_finite = (~norm.isfinite()).float()
        self.num_skipped = not_finite + self.num_skipped  # (at first a number on the CPU, which adds to any device)
        if self._skips_on_device:
            self._optimizer.found_inf = not_finite  # type: ignore[attr-defined]  # as torch.amp.GradScaler does
        elif not_finite:
            self._optimizer.zero_grad()  # parameters without a gradient are left alone
        self._optimizer.step()
        project_parameters(self._model)
        self._schedule.step()
        self._optimizer.zero_grad()
        return norm
