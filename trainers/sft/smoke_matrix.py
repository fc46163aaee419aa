"""The permutations of a training's options that are smoke-tested, generated from what the options' check lets pass."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from trainers.sft.config import TrainConfig
from trainers.sft.options import check_options_compatible

FEATURES: Mapping[str, Mapping[str, Any]] = {
    "lora": {"lora_rank": 2},
    "osft": {"osft_unfreeze": 0.5},
    "frozen": {"osft_unfreeze": 0.0},
    "bf16": {"compute_dtype": "bfloat16", "save_dtype": "bfloat16"},
    "checkpointing": {"activation_checkpointing": "full"},
    "padded": {"packing": "padded"},
    "transformers loss": {"loss": "transformers"},
    "liger": {"loss": "liger"},
    "muon": {"optimizer": "muon"},
    "keeps weights": {"reshard_after_forward": False},
    "cpu_offload": {"cpu_offload": True},
    "zero2": {"zero_stage": 2},
}
"""Options by name."""

Combination = tuple[str, ...]
"""A framework, then features."""


def options_of(combination: Combination) -> dict[str, Any]:
    """Return the fields of `TrainConfig` that a combination sets."""
    framework, *features = combination
    options: dict[str, Any] = {"framework": framework}
    for feature in features:
        options |= FEATURES[feature]
    return options


def refusal(combination: Combination, device_type: str) -> str | None:
    """Return why a training on ``cpu`` or ``cuda`` does not start with these options; None if it does."""
    options = {"model": Path("model"), "data": Path("data"), "output": Path("output"), "steps": 1}
    try:
        check_options_compatible(TrainConfig(**options, **options_of(combination)), device_type)
    except ValueError as error:
        return str(error)
    return None


def singles(framework: str, device_type: str) -> list[Combination]:
    """Return a framework alone and with each feature that it takes."""
    return [each for each in _alone(framework) if not refusal(each, device_type)]


def refused_singles(framework: str, device_type: str) -> dict[Combination, str]:
    """Return the others, with the reasons."""
    return {each: reason for each in _alone(framework) if (reason := refusal(each, device_type))}


def refused_pairs(framework: str, device_type: str) -> dict[Combination, str]:
    """Return, with the reasons, pairs of features that a framework takes alone but not together."""
    return {each: reason for each in _pairs(framework, device_type) if (reason := refusal(each, device_type))}


def covering(framework: str, device_type: str) -> list[Combination]:
    """Return few large combinations, such that any two features that go together are together in one of them."""
    return list(_covering(framework, device_type))


def _alone(framework: str) -> list[Combination]:
    return [(framework, *feature) for feature in [(), *combinations(FEATURES, 1)]]


def _pairs(framework: str, device_type: str) -> list[Combination]:
    taken = [feature for feature in FEATURES if not refusal((framework, feature), device_type)]
    return [(framework, *pair) for pair in combinations(taken, 2) if _of_different_fields(pair)]


def _covering(framework: str, device_type: str) -> Iterator[Combination]:
    def go_together(features: Combination) -> bool:
        return _of_different_fields(features) and not refusal((framework, *features), device_type)

    left = {pair[1:] for pair in _pairs(framework, device_type) if go_together(pair[1:])}
    while left:
        chosen = min(left)
        for feature in FEATURES:
            if feature not in chosen and go_together((*chosen, feature)):
                chosen = (*chosen, feature)
        left -= {pair for pair in left if set(pair) <= set(chosen)}
        yield (framework, *chosen)


def _of_different_fields(features: Combination) -> bool:
    fields = [field for feature in features for field in FEATURES[feature]]
    return len(set(fields)) == len(fields)
