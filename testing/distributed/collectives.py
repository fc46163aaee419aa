"""Which collective a process issued last, from torch's flight recorder."""

from __future__ import annotations

import os
import pickle
from typing import Any

import torch._C._distributed_c10d as c10d

_RECORDS = "64"


def record_collectives() -> None:
    """Switch torch's flight recorder on; call before the first process group is made."""
    os.environ["TORCH_FR_BUFFER_SIZE"] = _RECORDS


def last_collective() -> str | None:
    """Describe the collective that this process issued last, e.g. ``all_reduce(Float[4, 8])``; None if there is none.

    Safe in a second thread while the first one waits inside a collective.
    """
    records = [record for dump in _dumps() for record in dump.get("entries", [])]
    if not records:
        return None
    last = max(records, key=lambda record: record["time_created_ns"])
    return _describe(last)


def _dumps() -> list[dict[str, Any]]:
    # NCCL and the other backends keep separate recorders.
    dumps = []
    for name in ("_dump_nccl_trace", "_dump_fr_trace"):
        dump = getattr(c10d, name, None)
        if dump is not None:
            dumps.append(pickle.loads(dump(includeCollectives=True, includeStackTraces=False, onlyActive=False)))
    return dumps


def _describe(record: dict[str, Any]) -> str:
    name = record["profiling_name"].partition(":")[2]
    tensors = ", ".join(
        f"{dtype}{shape}" for dtype, shape in zip(record["input_dtypes"], record["input_sizes"], strict=False)
    )
    number = record["p2p_seq_id"] if record.get("is_p2p") else record["collective_seq_id"]
    return f"{name}({tensors}), number {number} of group {record['process_group'][1]!r}"
