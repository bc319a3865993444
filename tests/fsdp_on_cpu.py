"""Lightning's FSDP on CPUs with gloo, which Lightning refuses and torch does not, so that tests need no GPU."""

from __future__ import annotations

import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch.distributed.fsdp import FullyShardedDataParallel


class CpuFSDP(FSDPStrategy):
    """FSDP that shards on CPUs."""

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu")

    def _setup_model(self, model: torch.nn.Module) -> torch.nn.Module:
        return FullyShardedDataParallel(model, device_id=self.root_device, **self.kwargs)
