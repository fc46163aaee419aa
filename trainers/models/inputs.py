"""Arguments of a model's forward pass out of a minibatch."""

from typing import Any, cast

import torch
from torch import Tensor

from trainers.data.minibatch import IGNORE_INDEX, Minibatch, PackedMinibatch


def model_inputs(minibatch: Minibatch, device: torch.device) -> dict[str, Any]:
    """Return what ``model(**inputs).loss`` takes after `use_loss`, on a device, without waiting for it.

    Args:
        minibatch: on the CPU. Packed, for a model after `use_packed_attention`, or padded.
        device: where the model is.

    Returns:
        ``labels`` is ``[1, N]``: the N labels that carry loss. ``logits_to_keep`` names the positions before them, so
        that the head is computed there alone. A packed minibatch comes with the boundaries of sequences by the names
        that transformers gives them. A padded one comes with ``attention_mask`` and, since its rows need different
        positions, with ``predicting`` ``[N]``: where in the ``[B * kept]`` logits the loss finds its own.
    """
    labels = minibatch["labels"]
    rows, columns = torch.nonzero(labels != IGNORE_INDEX, as_tuple=True)
    tensors: dict[str, Tensor] = {
        "input_ids": minibatch["input_ids"],
        "position_ids": minibatch["position_ids"],
        "labels": labels[rows, columns][None],
    }
    others: dict[str, Any] = {"use_cache": False}
    if "cu_seqlens" in minibatch:
        packed = cast(PackedMinibatch, minibatch)
        tensors["logits_to_keep"] = columns - 1
        tensors["cu_seq_lens_q"] = packed["cu_seqlens"]
        others["max_length_q"] = packed["max_seqlen"]
    else:
        kept, at = torch.unique(columns - 1, return_inverse=True)
        tensors["attention_mask"] = minibatch["attention_mask"]
        tensors["logits_to_keep"] = kept
        tensors["predicting"] = rows * len(kept) + at
    return {name: _to(tensor, device) for name, tensor in tensors.items()} | others


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda" and not tensor.is_pinned():
        tensor = tensor.pin_memory()  # (else the copy would wait)
    return tensor.to(device, non_blocking=True)
