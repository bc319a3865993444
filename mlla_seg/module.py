"""The LightningModule: network, loss, metrics and optimiser, nothing else."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from mlla_seg import __version__
from mlla_seg.errors import InputError, lookup
from mlla_seg.inference import predict_case
from mlla_seg.losses import SegmentationLoss
from mlla_seg.metrics import CaseScores, dice_score, iou_score, mean_scores, seen_cases
from mlla_seg.models import create_model
from mlla_seg.models.segmenter import Segmenter
from mlla_seg.models.weights import load_pretrained
from mlla_seg.optim import SCHEDULES, learning_rate_factor, parameter_groups

CHECKPOINT_KEY = "mlla_seg_version"


class SegmentationModule(LightningModule):
    """Trains a segmenter and scores it case by case.

    Args:
        encoder: Name of the encoder, such as ``mlla_tiny``; ``timm/NAME`` or ``smp/NAME`` to compare with.
        decoder: Name of the decoder, such as ``mlla_unet``.
        decoder_depths: Blocks per level of the MLLA-UNet decoder, from coarse to fine.
        drop_path_rate: Stochastic depth; by default what the encoder's size was published with.
        mixer: Token mixer of the MLLA blocks.
        pretrained: File of released weights to start from; see ``load_pretrained``.
        lr: Peak learning rate of AdamW.
        weight_decay: Decay of weights, none on norms and biases.
        schedule: ``cosine``, ``poly`` or ``constant``.
        warmup: Fraction of all steps in which the learning rate rises.
        ce_weight: Weight of the cross-entropy.
        dice_weight: Weight of the Dice loss.
        class_weights: One weight per class in both losses.
        squared_dice: Squared probabilities in Dice's denominator, as in TransUNet's recipe.
        eval_batch_size: Slices of a case that go through the network at once in validation and test.
        spec: What the data are, from the data module: classes, channels, normalisation; plain types.
    """

    def __init__(
        self,
        encoder: str = "mlla_tiny",
        decoder: str = "mlla_unet",
        decoder_depths: list[int] | None = None,
        drop_path_rate: float | None = None,
        mixer: str = "linear_attention",
        pretrained: str | None = None,
        lr: float = 5e-4,
        weight_decay: float = 0.05,
        schedule: str = "cosine",
        warmup: float = 0.05,
        ce_weight: float = 1.0,
        dice_weight: float = 1.0,
        class_weights: list[float] | None = None,
        squared_dice: bool = False,
        eval_batch_size: int = 16,
        spec: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if spec is None:
            raise InputError("SegmentationModule needs the spec of its data: SegmentationDataModule(...).spec.")
        lookup(SCHEDULES, schedule, "schedule")
        classes = [entry["name"] for entry in spec["classes"]]
        if class_weights is not None and len(class_weights) != len(classes):
            raise InputError(
                f"class_weights has {len(class_weights)} entries for {len(classes)} classes: {', '.join(classes)}."
            )
        self.save_hyperparameters()
        self.spec = spec
        self.class_names = classes
        self.network = build_network(dict(self.hparams))
        self.loss = SegmentationLoss(ce_weight, dice_weight, class_weights, squared_dice)

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.hparams["pretrained"]:
            rank_zero_info(f"{self.hparams['pretrained']}: {load_pretrained(self.network, self.hparams['pretrained'])}")

    def forward(self, image: Tensor) -> Tensor:
        """Maps images ``(B, C, H, W)`` in raw units to logits ``(B, K, H, W)``."""
        return self.network(image)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(self.network(batch["image"]), batch["mask"])
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch["image"]))
        return loss

    def on_validation_epoch_start(self) -> None:
        self.scores = self._new_scores(self.trainer.val_dataloaders)

    def validation_step(self, case: dict[str, Any], batch_idx: int) -> None:
        self._score(case)

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    def on_test_epoch_start(self) -> None:
        self.scores = self._new_scores(self.trainer.test_dataloaders)

    def test_step(self, case: dict[str, Any], batch_idx: int) -> None:
        self._score(case)

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def _new_scores(self, loader: Any) -> CaseScores:
        return CaseScores(len(loader.dataset), len(self.class_names)).to(self.device)

    def predict_case(self, image: Tensor) -> Tensor:
        """Label map ``(S, H, W)`` of a case ``(S, C, H, W)`` in raw units."""
        how = {key: self.spec[key] for key in ("resize", "window", "context")}
        return predict_case(self.network, image, self.device, **how, batch_size=self.hparams["eval_batch_size"])

    def _score(self, case: dict[str, Any]) -> None:
        self.scores.update(self.predict_case(case["image"]), case["mask"].cpu(), case["index"])

    def _log_scores(self, split: str) -> None:
        counts = self.scores.compute()  # the same in every process
        self.scored = seen_cases(counts)
        self.counts = counts[self.scored]
        for metric, score in (("dice", dice_score), ("iou", iou_score)):
            per_class, mean = mean_scores(score(self.counts), self.spec["background"])
            self.log(f"{split}/{metric}", mean.float(), prog_bar=metric == "dice", rank_zero_only=False)
            for name, value in zip(self.class_names, per_class, strict=True):
                self.log(f"{split}/{metric}_{name}", value.float())

    def configure_optimizers(self) -> Any:
        total = int(self.trainer.estimated_stepping_batches)
        warmup = round(self.hparams["warmup"] * total)
        schedule = self.hparams["schedule"]
        groups = parameter_groups(self.network, self.hparams["weight_decay"])
        optimizer = torch.optim.AdamW(groups, lr=self.hparams["lr"])
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, total, warmup, schedule)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[CHECKPOINT_KEY] = __version__


def build_network(hparams: dict[str, Any]) -> Segmenter:
    """The network that hyper-parameters (of this module, or from its checkpoint) describe."""
    spec = hparams["spec"]
    slices = 2 * spec["context"] + 1
    normalisation = {
        key: value * slices if key in ("mean", "std") and isinstance(value, list) else value
        for key, value in spec["normalisation"].items()
    }
    network = create_model(
        hparams["encoder"],
        hparams["decoder"],
        num_classes=len(spec["classes"]),
        in_channels=len(spec["channels"]) * slices,
        normalisation=normalisation,
        drop_path_rate=hparams["drop_path_rate"],
        decoder_depths=hparams["decoder_depths"],
        mixer=hparams["mixer"],
    )
    network.spec = spec
    return network
