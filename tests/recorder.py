"""A Lightning callback, given on the command line, that records what an optimiser step actually used."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mlla_seg.models.blocks import BLOCKS


class Recorder(Callback):
    """Write ``steps.<rank>.json`` in the current folder, and keep the module of this process's latest run."""

    module: LightningModule
    initial: dict[str, torch.Tensor]
    """Weights before the first step."""
    checkpointed: list[str]
    """Blocks that ran twice for each batch: in the forward and again in the backward pass."""
    shown: list[int]
    """Slices per forward pass in validation."""

    def __init__(self) -> None:
        self.steps: list[dict[str, list[float]]] = []

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        kind = type(self)
        kind.module, kind.shown = module, []
        kind.initial = {name: value.clone() for name, value in module.network.state_dict().items()}
        self.calls: Counter[str] = Counter()
        self.batches = 0
        for name, part in module.network.named_modules():
            if isinstance(part, tuple(BLOCKS.values())):
                part.register_forward_pre_hook(partial(self.count, name))

        def note(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
            if not module.training:
                kind.shown.append(len(inputs[0]))

        module.network.register_forward_pre_hook(note)

    def count(self, name: str, part: torch.nn.Module, inputs: object) -> None:
        self.calls[name] += torch.is_grad_enabled()  # frozen parts are in evaluation mode

    def on_train_batch_end(self, *_: object) -> None:
        self.batches += 1

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        names = ("lr", "weight_decay")
        self.steps.append({name: [group[name] for group in optimizer.param_groups] for name in names})

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        type(self).checkpointed = [name for name, calls in self.calls.items() if calls == 2 * self.batches]
        Path(f"steps.{trainer.global_rank}.json").write_text(json.dumps(self.steps))
