"""Optimizers of ``torch.optim`` by name, with the parameter groups that language models want.

Everything here works on plain parameters and on the DTensors that FSDP2 makes of them, also side by side: torch's fused
and foreach kernels refuse lists of both kinds, so each kind gets parameter groups of its own.
"""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.distributed.tensor import DTensor

from trainers.optim.options import refused_by_name

_CLASSES: dict[str, type[optim.Optimizer]] = {
    cls.__name__.lower(): cls
    for cls in (
        optim.AdamW,
        optim.Adam,
        optim.Adagrad,
        optim.Adamax,
        optim.Muon,
        optim.NAdam,
        optim.RAdam,
        optim.RMSprop,
        optim.SGD,
    )
}
# match_rms_adamw (arXiv 2502.16982, section 2.2) makes one learning rate serve Muon's matrices and AdamW's rest.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "adamw": {"betas": (0.9, 0.95)},
    "muon": {"adjust_lr_fn": "match_rms_adamw"},
}
_FUSED = {"adam", "adamw"}  # the others' fused kernels do not take DTensors
_FUSED_DEVICES = {"cpu", "cuda"}


def build_optimizer(
    model: nn.Module,
    learning_rate: float,
    *,
    name: str = "adamw",
    weight_decay: float = 0.0,
    options: Mapping[str, Any] | None = None,
) -> optim.Optimizer:
    """Make the optimizer of all parameters of ``model`` that are trained; call it after ``fully_shard``.

    Weight decay acts on matrices alone: biases, norms, other vectors and embeddings are in groups without it. Muon
    takes the matrices between embedding and output layer, AdamW everything else (stacked experts, too), both with the
    same learning rate.
    Adam's and AdamW's kernels are fused where the device allows. torch's Adafactor is missing because it cannot take
    DTensors.

    Args:
        model: has at least one parameter that requires a gradient.
        learning_rate: of every group, > 0.
        name: of a class of ``torch.optim``, in lower case: ``adamw``, ``muon``, ``sgd``, ...
        weight_decay: decay of matrices, >= 0.
        options: further arguments of that class, such as ``{"betas": (0.9, 0.99), "eps": 1e-6}``. AdamW's ``betas`` are
            (0.9, 0.95) if not given, Muon's ``adjust_lr_fn`` is ``match_rms_adamw``.

    Raises:
        ValueError: an unknown name or option, a value out of range, or a model without trained parameters.
    """
    if name not in _CLASSES:
        raise ValueError(f"unknown optimizer {name!r}; there are {', '.join(sorted(_CLASSES))}")
    if not learning_rate > 0 or not weight_decay >= 0:
        raise ValueError(
            f"optimizer {name}: learning_rate={learning_rate} must be > 0, weight_decay={weight_decay} must be >= 0"
        )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError("no parameter of the model requires a gradient: unfreeze some, or add adapters to train")
    arguments = {"lr": learning_rate, **_DEFAULTS.get(name, {}), **_checked(name, options or {})}
    matrices, others = _split(trained, _embeddings(model))
    if name != "muon":
        return _make(name, [*_groups(matrices, weight_decay), *_groups(others, 0.0)], arguments)
    head = _output_parameters(model)
    hidden = [parameter for parameter in matrices if parameter not in head and parameter.ndim == 2]
    dense = [parameter for parameter in matrices if parameter in head or parameter.ndim > 2]
    if not hidden:
        raise ValueError(
            "muon trains matrices between embedding and output layer, and this model trains none: use adamw"
        )
    rest = [*_groups(dense, weight_decay), *_groups(others, 0.0)]
    parts = [_make("muon", _groups(hidden, weight_decay), arguments)]
    if rest:
        parts.append(_make("adamw", rest, {"lr": learning_rate, **_DEFAULTS["adamw"]}))
    return JoinedOptimizer(parts)


class JoinedOptimizer(optim.Optimizer):
    """Several optimizers of disjoint parameters as one: to schedules and checkpoints it looks like any other.

    Args:
        parts: optimizers; their parameter groups follow one another here and are shared, as is the state.
    """

    def __init__(self, parts: Iterable[optim.Optimizer]) -> None:
        self._parts = list(parts)
        groups = [group for part in self._parts for group in part.param_groups]
        super().__init__(groups, {"lr": groups[0]["lr"]})  # (some schedules read the learning rate here)
        self._share()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        start = 0
        for part in self._parts:
            end = start + len(part.param_groups)
            part.param_groups, part.state, start = self.param_groups[start:end], self.state, end

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step of each part."""
        assert closure is None
        for part in self._parts:
            part.step()


def _make(name: str, groups: list[dict[str, Any]], arguments: Mapping[str, Any]) -> optim.Optimizer:
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    fused = {"fused": True} if name in _FUSED and devices <= _FUSED_DEVICES else {}
    with refused_by_name(f"optimizer {name}", arguments):
        return _CLASSES[name](groups, **{**fused, **arguments})


def _checked(name: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    known = set(inspect.signature(_CLASSES[name]).parameters) - {"params", "lr", "weight_decay"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(f"optimizer {name} has no option {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    return options


def _groups(parameters: Iterable[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    """One group per kind of tensor: plain, and DTensors of each mesh."""
    kinds: dict[object, list[Tensor]] = {}
    for parameter in parameters:
        kinds.setdefault(parameter.device_mesh if isinstance(parameter, DTensor) else None, []).append(parameter)
    return [{"params": kind, "weight_decay": weight_decay} for kind in kinds.values()]


def _split(parameters: Iterable[nn.Parameter], embeddings: set[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """(matrices, vectors and embeddings)."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for parameter in parameters:
        (matrices if parameter.ndim >= 2 and parameter not in embeddings else others).append(parameter)
    return matrices, others


def _embeddings(model: nn.Module) -> set[Tensor]:
    return {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}


def _output_parameters(model: nn.Module) -> set[Tensor]:
    """Parameters of the layer that makes logits, which transformers models know."""
    find = getattr(model, "get_output_embeddings", None)
    head = find() if find else None
    return set(head.parameters()) if isinstance(head, nn.Module) else set()
