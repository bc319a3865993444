"""What every LightningModule here has in common: optimiser, schedule, seeds, checks, and what a checkpoint keeps."""

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn

from mlla_seg._version import __version__
from mlla_seg.finite import LOWER_RATE, require_finite_loss, require_finite_weights
from mlla_seg.models.checkpoint import CHECKPOINT_KEY
from mlla_seg.places import shareable
from mlla_seg.training import optim
from mlla_seg.training.distributed import gathered, step_seed
from mlla_seg.training.horizon import limits_time, position, steps_left, time_used, total_steps


class OptimisedModule(LightningModule):
    """LightningModule that trains its ``network``; a resumed run continues exactly as an uninterrupted one.

    Contract of subclasses: they set ``network``; they call ``save_hyperparameters`` with ``optimizer``, ``lr``,
    ``weight_decay``, ``schedule`` and ``warmup``, and with ``encoder_lr_factor`` and ``final_lr_factor`` if they have
    them; ``training_step`` returns ``self.watch(loss, batch)``, where the loss is the same in every process.
    """

    network: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.options: dict[str, Any] = {}  # options of data and trainer, saved in checkpoints
        self.time_used = 0.0  # fraction of max_time
        self.watched: tuple[Tensor, Sequence[str]]  # loss and case names of the latest batch
        self.seed: int | None = None
        self.epoch_loss = torch.zeros(2)  # sum over the samples of this epoch, and their number
        self.axes: dict[str, int] | None = None  # of each parameter
        self.heads: nn.Module | None = None  # trained with the network, but no part of it

    def setup(self, stage: str) -> None:
        """Remember the number of axes of each parameter, before FSDP flattens them."""
        trained = optim.trained_parameters(self.network, self.heads)
        self.axes = {name: parameter.ndim for name, parameter in trained}

    def on_fit_start(self) -> None:
        if self.seed is None:  # otherwise it came with the checkpoint
            self.seed = torch.initial_seed()

    def on_train_epoch_start(self) -> None:
        self.epoch_loss = torch.zeros(2)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed by process and step, so that a resumed run repeats the same draws, such as those of stochastic depth."""
        assert self.seed is not None
        seed = step_seed(self.seed, self.global_rank, self.current_epoch, batch_idx)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        if limits_time(self.trainer):  # validation may have used some since the last scheduler step
            self._set_rates()

    def watch(self, loss: Tensor, batch: dict[str, Any]) -> Tensor:
        """Keep the loss of a batch for the mean of the epoch and for the check after the backward pass."""
        self.watched = loss.detach(), batch.get("name", [])
        samples = len(batch["image"])
        self.epoch_loss = self.epoch_loss.to(loss.device) + torch.stack(
            [loss.detach().float() * samples, loss.new_tensor(samples).float()]
        )
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the mean loss of the epoch, before the checkpoints of its end are saved."""
        total, samples = self.epoch_loss.tolist()
        mean = total / samples
        self.log("train/loss", mean, prog_bar=True, logger=False)
        for logger in self.loggers:
            logger.log_metrics({"train/loss": mean, "epoch": self.current_epoch}, step=self.global_step - 1)

    def on_after_backward(self) -> None:
        """Stop before the optimiser step if the loss is NaN or infinite; the loss is the same in every process.

        Checked after the backward pass, so that the GPU is busy while the host waits for the value.
        """
        loss, names = self.watched
        if not loss.isfinite():
            require_finite_loss(float(loss), self.trainer.global_step, gathered(names))

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip gradients; with FSDP by its own norm over all processes, which Lightning does not call."""
        if gradient_clip_val and isinstance(self.trainer.strategy, FSDPStrategy) and gradient_clip_algorithm != "value":
            self.trainer.strategy.model.clip_grad_norm_(gradient_clip_val)  # type: ignore[operator, union-attr]
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_optimizers(self) -> Any:
        self.total_steps = total_steps(self.trainer)
        optimizer = optim.build_optimizer(self.hparams["optimizer"], self._groups(), self.hparams["lr"])
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.rate(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def progress(self) -> float:
        """Return the fraction of the training that is done: the larger of that in steps and in ``max_time``."""
        return max(self.global_step / self.total_steps, self.time_used)

    def rate(self, step: int) -> float:
        """Return the learning-rate factor at a step; progress is the larger of that in steps and in ``max_time``."""
        total: float = self.total_steps
        if total == math.inf:
            step, total = 0, optim.PARTS
        at = max(step, self.time_used * total)
        warmup, schedule = round(self.hparams["warmup"] * total), self.hparams["schedule"]
        final = self.hparams.get("final_lr_factor", 0.0)
        return optim.learning_rate_factor(at, int(total), warmup, schedule, final)

    def on_train_start(self) -> None:
        """Apply the current learning rates, weight decay and schedule instead of those restored from a checkpoint."""
        (optimizer,), scheduler = self.trainer.optimizers, self.trainer.lr_scheduler_configs[0].scheduler
        if scheduler.last_epoch:
            self.total_steps = scheduler.last_epoch + steps_left(self.trainer)
        for group, wanted in zip(optimizer.param_groups, self._groups(), strict=True):
            group |= {"initial_lr": wanted["lr"], "weight_decay": wanted["weight_decay"]}
        scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self._set_rates()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.global_step == self.trainer.max_steps:
            self.trainer.should_stop = True  # validates the final weights, even in the middle of an epoch

    def _set_rates(self) -> None:
        """Update the learning rates to the current progress, as the scheduler does after each step."""
        self.time_used = time_used(self.trainer)
        (optimizer,), scheduler = self.trainer.optimizers, self.trainer.lr_scheduler_configs[0].scheduler
        factor = self.rate(scheduler.last_epoch)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore data order, seed and loss; split the optimiser state into the groups of the current options."""
        if (data := getattr(self.trainer, "datamodule", None)) is not None:
            data.start = position(checkpoint["loops"]["fit_loop"])
        self.seed = checkpoint.get("seed")
        self.epoch_loss = torch.tensor(checkpoint.get("epoch_loss", [0.0, 0.0]))
        sizes = [len(group["params"]) for group in self._groups()]
        for state in checkpoint.get("optimizer_states", ()):
            state["param_groups"] = optim.regrouped(state["param_groups"], sizes)

    def _groups(self) -> list[dict[str, Any]]:
        factor = self.hparams.get("encoder_lr_factor", 1.0)
        rates = self.hparams["lr"], self.hparams["weight_decay"], factor
        return optim.parameter_groups(self.network, *rates, self.axes, self.heads)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # With weight averaging, state_dict holds the average and current_model_state the weights of the last step.
        for key in ("state_dict", "current_model_state"):
            require_finite_weights("No checkpoint is saved", checkpoint.get(key, {}), LOWER_RATE)
        checkpoint[CHECKPOINT_KEY] = __version__
        hparams = checkpoint["hyper_parameters"]
        if hparams.get("pretrained"):
            checkpoint["hyper_parameters"] = {**hparams, "pretrained": shareable(hparams["pretrained"])}
        checkpoint |= {"options": self.options, "seed": self.seed, "epoch_loss": self.epoch_loss.tolist()}
