"""Tiny models under FSDP2, and what their ranks hold together."""

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from trainers.models.blocks import transformer_blocks


def shard(model: nn.Module, mesh: DeviceMesh | None = None) -> FSDPModule:
    """``fully_shard`` each block, then the root; over all ranks if no mesh is given."""
    for block in transformer_blocks(model):
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def whole(tensor: Tensor) -> Tensor:
    """The tensor gathered from all ranks, detached."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """Copies of everything in the state dict, gathered."""
    return {name: whole(tensor).clone() for name, tensor in model.state_dict().items()}
