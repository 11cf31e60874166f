"""A base that is divided among processes: each keeps a part of every layer, and gets the rest while it computes.

Fully sharded data parallelism (Zhao et al. 2023, arXiv 2304.11277) by PyTorch's `fully_shard`, of the frozen weights
alone: the adapter is whole everywhere, and its gradients are summed as without.
"""

from torch import distributed, nn

from fedlpp_cli.models.adapted import AdaptedModel


def shard_base(adapted: AdaptedModel, device: str) -> None:
    """Divide the frozen weights among all processes, in place; all must do so, and then compute at the same time.

    Args:
        adapted: on the CPU, the same in every process; on a GPU it need not fit.
        device: "cpu", or this process's GPU, where its parts go.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.partition(":")[0], (distributed.get_world_size(),))
    own = set(adapted.parameters.values())
    for parameter in own:
        parameter.data = parameter.data.to(device)
    for block in _blocks(adapted.model):
        fully_shard(block, mesh=mesh, ignored_params=own)
    fully_shard(adapted.model, mesh=mesh, ignored_params=own)


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The model's layers: what stands in its outermost lists of modules."""
    found: list[nn.Module] = []
    for child in model.children():
        found.extend(child if isinstance(child, nn.ModuleList) else _blocks(child))
    return found
