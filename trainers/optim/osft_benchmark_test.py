"""OSFT beside mini_trainer's and beside full fine-tuning, on one CPU thread: set-up, steps, projections.

First it shows that ours and mini_trainer's mean the same. Times are CPU times, so that other programs do not count.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from mini_trainer.osft_utils import create_osft_model_class
from torch import nn
from torch.optim import AdamW
from transformers import LlamaForCausalLM

from testing.tiny_models.models import VOCABULARY, tiny_model
from testing.tiny_models.training import backward, token_ids
from trainers.optim.gradient_step import GradientStep
from trainers.optim.optimizer import build_optimizer
from trainers.optim.osft import apply_osft, dense_tensors
from trainers.optim.osft_decompose import decompose
from trainers.optim.osft_projection import project_gradients, project_parameters
from trainers.optim.projections import find_projections
from trainers.optim.schedule import build_schedule

USUAL = {"initializer_range": 0.02}
SMALL = {**USUAL, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 8}
TOKENS = 1024


def theirs(model: LlamaForCausalLM) -> nn.Module:
    """mini_trainer's OSFT model with the weights of ``model``, half of each one's directions frozen."""
    frozen = {f"{name}.weight": min(layer.weight.shape) // 2 for name, layer in find_projections(model).items()}
    osft = create_osft_model_class(LlamaForCausalLM)(model.config, osft_config=frozen, initialize_osft=False)
    osft.load_state_dict(model.state_dict())
    osft.reinitialize_osft(decompose_existing_weights=True)
    return osft


def ours(model: LlamaForCausalLM) -> nn.Module:
    apply_osft(model, 0.5)
    return model


def their_step(model: nn.Module) -> Callable[[], None]:
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)

    def step() -> None:
        model.project_gradients()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.project_parameters()
        optimizer.zero_grad()

    return step


def our_step(model: nn.Module) -> Callable[[], object]:
    optimizer = build_optimizer(model, 1e-3)
    return GradientStep(model, optimizer, build_schedule(optimizer, "constant", num_training_steps=1000))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


VARIANTS = {
    "full fine-tuning": (lambda model: model, our_step),
    "ours": (ours, our_step),
    "mini_trainer": (theirs, their_step),
}


def test_ours_does_what_the_published_one_does():
    """Their own loop clips before it projects; here both project first."""
    states = []
    for variant in ("ours", "mini_trainer"):
        wrap, step_of = VARIANTS[variant]
        model = wrap(tiny_model(**USUAL))
        step = step_of(model)
        for number in range(20):
            backward(model, token_ids(4, number))
            step()
        state = model.state_dict()
        states.append(dict(dense_tensors(model)) if variant == "ours" else model.prepare_state_dict_for_save(state))
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=0, atol=1e-6, msg=lambda t, n=name: f"{n}: {t}")


def test_decompositions(capsys):
    rows = []
    for shape in ((256, 1024), (512, 512), (1024, 1024), (1024, 2048)):
        weight = torch.randn(shape) * shape[1] ** -0.5
        rows.append(
            {"weight": f"{shape[0]} x {shape[1]}", "CPU s": f"{shortest(lambda w=weight: decompose(w), 2):.2f}"}
        )
    show(capsys, "osft_decompositions", rows)


def test_steps(capsys):
    """One sequence of 1,024 tokens through two blocks."""
    ids = torch.randint(VOCABULARY, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    rows = []
    for variant, (wrap, step_of) in VARIANTS.items():
        dense = tiny_model(**SMALL)
        start = time.process_time()
        model = wrap(dense)
        set_up = time.process_time() - start
        step = step_of(model)
        times: dict[str, list[float]] = {"forward and backward": [], "update": []}
        for _ in range(5):
            times["forward and backward"].append(shortest(lambda m=model: backward(m, ids), 1))
            times["update"].append(shortest(step, 1))
        backward(model, ids)
        rows.append(
            {
                "variant": variant,
                "trained": f"{sum(p.numel() for p in model.parameters() if p.requires_grad):,}",
                "all parameters": f"{sum(p.numel() for p in model.parameters()):,}",
                "set-up, s": f"{set_up:.2f}",
                **{f"{what}, ms": f"{min(each) * 1e3:.0f}" for what, each in times.items()},
                "of it projections, ms": f"{projection_time(variant, model) * 1e3:.1f}",
            }
        )
    show(capsys, "osft_steps", rows)


def projection_time(variant: str, model: nn.Module) -> float:
    """Of gradients and parameters together."""
    if variant == "full fine-tuning":
        return 0.0
    if variant == "ours":
        return shortest(lambda: (project_gradients(model), project_parameters(model)), 5)
    return shortest(lambda: (model.project_gradients(), model.project_parameters()), 5)


def shortest(call: Callable[[], object], repeats: int) -> float:
    """CPU time in seconds of the shortest call."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def show(capsys: pytest.CaptureFixture[str], name: str, rows: Sequence[dict[str, object]]) -> None:
    """Print the rows as a Markdown table, and write them as NAME.json to the outputs of the test if there are any."""
    with capsys.disabled():
        print(f"\n{name}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
        for cells in (list(rows[0]), ["---"] * len(rows[0]), *(map(str, row.values()) for row in rows)):
            print(f"| {' | '.join(cells)} |")
    folder = os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR")
    if folder:
        Path(folder, f"{name}.json").write_text(json.dumps(list(rows), indent=1))
