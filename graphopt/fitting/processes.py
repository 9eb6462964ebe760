"""Processes that train one network together: those that `torchrun` starts, or this one alone.

Needs the extra `[distill]`; import it where training starts, not before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from graphopt.errors import InputError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """Those that work together, seen from one of them.

    Args:
        device: where this one computes.
        rank: which of them this is.
        count: how many there are.
    """

    device: torch.device
    rank: int = 0
    count: int = 1

    def spread(self, net: nn.Module) -> nn.Module:
        """The network, with gradients that are averaged over all processes."""
        if self.count == 1:
            return net
        own = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(net, device_ids=own)

    def total(self, value: float) -> float:
        """The sum of everybody's value; the same number for all."""
        if self.count == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float32, device=self.device)
        dist.all_reduce(shared)
        return float(shared)

    def agreed(self, value: Value) -> Value:
        """What the first process has, for all."""
        shared = [value]
        if self.count > 1:
            dist.broadcast_object_list(shared, src=0)
        return shared[0]

    def align(self, values: Tensor) -> None:
        """Give everybody the first process's values, in place."""
        if self.count > 1:
            dist.broadcast(values, src=0)


@contextmanager
def joined(device: str, *, batch: int) -> Iterator[Processes]:
    """This process among those that `torchrun` started.

    Args:
        device: cpu, cuda or mps; of several GPUs each process takes its own.
        batch: crops of a step, to be shared evenly.

    Raises:
        InputError: there is no such device here, or the batch cannot be shared evenly.
    """
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if device in there and not there[device]():
        raise InputError(f"PyTorch finds no {device} device here", hint="--train-device cpu")
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(torch.device(device))
        return
    if batch % count:
        raise InputError(
            f"{batch} crops cannot be shared evenly by {count} processes",
            hint=f"distill{{batch={count * max(1, batch // count)}}}",
        )
    place = torch.device(device)
    if device == "cuda":
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(place)
    store, rank, _ = next(rendezvous("env://"))
    # After a restart the addresses of processes that are no more are still there.
    store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=count)
    try:
        yield Processes(place, dist.get_rank(), count)
    finally:
        dist.destroy_process_group()
