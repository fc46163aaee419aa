"""Random samples for tiny models."""

from collections.abc import Sequence

import torch

from trainers.data.minibatch import IGNORE_INDEX, Sample


def random_samples(lengths: Sequence[int], vocabulary: int, seed: int = 0) -> list[Sample]:
    """Return samples of the given lengths, the first third of each (at least one token) without loss."""
    generator = torch.Generator().manual_seed(seed)
    samples: list[Sample] = []
    for length in lengths:
        ids = torch.randint(vocabulary, (length,), generator=generator)
        labels = ids.clone()
        labels[: max(1, length // 3)] = IGNORE_INDEX
        samples.append({"input_ids": ids, "labels": labels})
    return samples
