"""A callback of Lightning, given on the command line, that notes what an optimiser step really used."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class Recorder(Callback):
    """Writes ``steps.<rank>.json`` here, and keeps the module of the latest run in this process."""

    module: LightningModule
    initial: dict[str, torch.Tensor]
    """Weights before the first step."""
    checkpointed: list[str]
    """Parts that were computed again while training."""
    shown: list[int]
    """Slices that validation showed to the network at once."""

    def __init__(self) -> None:
        self.steps: list[dict[str, list[float]]] = []

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        kind = type(self)
        kind.module, kind.shown = module, []
        kind.initial = {name: value.clone() for name, value in module.network.state_dict().items()}
        kind.checkpointed = [name for name, part in module.network.named_modules() if "forward" in vars(part)]

        def note(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
            if not module.training:
                kind.shown.append(len(inputs[0]))

        module.network.register_forward_pre_hook(note)

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        names = ("lr", "weight_decay")
        self.steps.append({name: [group[name] for group in optimizer.param_groups] for name in names})

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        Path(f"steps.{trainer.global_rank}.json").write_text(json.dumps(self.steps))
