"""One process or many: `torchrun` starts the same programs once for each GPU."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@contextmanager
def processes(device: str) -> Iterator[torch.device]:
    """Joins the processes that `torchrun` started, if it did, and yields this one's device.

    Args:
        device: "cpu" or "cuda"; each process takes the GPU of its own number.
    """
    if "LOCAL_RANK" not in os.environ:
        yield torch.device(device)
        return
    named = torch.device(device)
    if named.type == "cuda":
        named = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(named)
    dist.init_process_group("nccl" if named.type == "cuda" else "gloo")
    try:
        yield named
    finally:
        dist.destroy_process_group()


def use_threads(count: int) -> None:
    """Limits the threads of this process, torch's and those of BLAS.

    SciPy's optimisers call BLAS with short vectors. Its threads wait for each other in busy loops:
    where several processes have more of them than there are cores, a fit takes 60 times as long.
    """
    torch.set_num_threads(count)
    threadpool_limits(count)


def rank() -> int:
    """Returns the number of this process, 0 where it is the only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Returns the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def replicate(model: nn.Module) -> nn.Module:
    """Returns `model`, its gradients averaged over the processes where there are several."""
    return DistributedDataParallel(model) if dist.is_initialized() else model


def gather_shards(rows: Tensor, total: int) -> Tensor:
    """Returns all `total` rows in order, on every process, from the shards of each.

    Args:
        rows: The rows `range(rank(), total, world_size())`, (shard, ...): every row belongs to
            one process, where a `DistributedSampler` would give some to two.
        total: Number of rows of all processes together.
    """
    if world_size() == 1:
        return rows
    most = -(-total // world_size())
    mine = rows.new_zeros(most, *rows.shape[1:])
    mine[: len(rows)] = rows
    shards = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(shards, mine)
    # Row k of process r is row k * world_size + r of all; the last ones may be padding.
    return torch.stack(shards, dim=1).flatten(0, 1)[:total]
