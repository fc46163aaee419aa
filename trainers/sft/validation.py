"""The validation loss: the mean over all validation tokens that carry loss, the same at every world size."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainers.data.loader import BatchLoader
from trainers.data.minibatch import Minibatch
from trainers.sft.worker import Worker


@torch.no_grad()
def validation_loss(
    model: nn.Module, loader: BatchLoader, loss_of: Callable[[Minibatch], Tensor], worker: Worker
) -> float:
    """Compute the mean cross entropy of a validation set; a collective.

    Args:
        model: put into evaluation mode meanwhile.
        loader: of one epoch; every rank has the same number of minibatches.
        loss_of: summed loss of a minibatch.
        worker: this rank.

    Returns:
        Mean in nats, NaN if no token carries loss. Sums are in fp64.
    """
    training, start = model.training, loader.state_dict()
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=worker.device)
    counted = 0
    for batch in loader:
        for minibatch in batch.minibatches:
            total += loss_of(minibatch)
        counted += batch.minibatches[0]["batch_num_loss_counted_tokens"]
    loader.load_state_dict(start)  # (the same order each time)
    dist.all_reduce(total)
    model.train(training)
    return float(total) / counted if counted else float("nan")
