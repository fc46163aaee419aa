import pytest
import torch

from testing.tiny_models.models import tiny_model
from testing.tiny_models.training import token_ids
from trainers.optim.gradient_step import GradientStep
from trainers.optim.optimizer import build_optimizer
from trainers.optim.osft import apply_osft
from trainers.optim.schedule import build_schedule


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature:UserWarning")
def test_the_host_waits_for_nothing():
    model = tiny_model().cuda()
    apply_osft(model, 0.5)
    optimizer = build_optimizer(model, 1e-3)
    update = GradientStep(model, optimizer, build_schedule(optimizer, "constant", num_training_steps=3))
    ids = token_ids(4, 0, "cuda")
    norms = []
    for _ in range(3):
        model(input_ids=ids, labels=ids).loss.backward()
        torch.cuda.set_sync_debug_mode("error")
        norms.append(update())
        torch.cuda.set_sync_debug_mode("default")
    assert torch.stack(norms).isfinite().all()
    assert float(update.num_skipped) == 0
