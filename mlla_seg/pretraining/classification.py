"""Supervised pretraining: LightningModule of an MLLA classifier with Mixup, CutMix and MESA."""

from typing import Any, Literal, TypeAlias

import torch
from timm.data.mixup import Mixup, mixup_target
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from mlla_seg.errors import InputError, lookup
from mlla_seg.models.blocks import BLOCKS
from mlla_seg.models.mlla import MLLA, SIZES
from mlla_seg.pretraining.labelled import UNCOUNTED
from mlla_seg.pretraining.parts import PretrainingModule
from mlla_seg.training import optim
from mlla_seg.training.distributed import mean_over_processes
from mlla_seg.training.ema import ema_of

MESA = {"mlla_small": 1.5, "mlla_base": 2.0}
"""Weights of MESA in the authors' configs that differ from 1."""
BlockName: TypeAlias = Literal[tuple(BLOCKS)]  # type: ignore[valid-type]
ScheduleName: TypeAlias = Literal[tuple(optim.SCHEDULES)]  # type: ignore[valid-type]


class ClassificationModule(PretrainingModule):
    """LightningModule that trains an MLLA classifier.

    Args:
        encoder: Size of the encoder, such as ``mlla_tiny``.
        drop_path_rate: Stochastic depth rate; by default the published rate of the encoder's size.
        mixer: Token mixer of the MLLA blocks, as in ``fit``.
        block: Block around the mixer: ``mlla``, ``transformer`` or ``mamba``.
        optimizer: ``adamw``, ``sgd`` or another optimiser of timm, which include torch's.
        lr: Peak learning rate.
        weight_decay: Weight decay; not applied to norms and biases.
        schedule: Learning-rate schedule: ``cosine``, ``poly`` or ``constant``.
        warmup: Fraction of the training in which the learning rate rises linearly.
        final_lr_factor: Learning rate at the end, relative to ``lr``.
        mixup: Alpha of Mixup; 0 for none.
        cutmix: Alpha of CutMix; 0 for none. With both, each batch draws one of them.
        label_smoothing: Probability that is spread over all classes.
        mesa: Weight of MESA, a loss towards the prediction of the averaged weights; 0 for none, by default the
            published weight of the encoder's size.
        mesa_start: Fraction of the training after which MESA begins.
        spec: Description of the data: ``ImageFolderDataModule(...).spec.to_dict()``.
    """

    network: MLLA
    kind = "classification"
    best_by = ("val/top1", "max")

    def __init__(
        self,
        encoder: str = "mlla_tiny",
        drop_path_rate: float | None = None,
        mixer: str = "linear_attention",
        block: BlockName = "mlla",
        optimizer: str = "adamw",
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        schedule: ScheduleName = "cosine",
        warmup: float = 20 / 300,
        final_lr_factor: float = 0.01,
        mixup: float = 0.8,
        cutmix: float = 1.0,
        label_smoothing: float = 0.1,
        mesa: float | None = None,
        mesa_start: float = 0.25,
        spec: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if spec is None:
            raise InputError(
                "ClassificationModule needs the spec of its data: ImageFolderDataModule(...).spec.to_dict()."
            )
        size = dict(lookup(SIZES, encoder, "encoder"))
        lookup(optim.SCHEDULES, schedule, "schedule")
        optim.require_optimizer(optimizer)
        mesa = MESA.get(encoder, 1.0) if mesa is None else mesa
        for name, value in (("mixup", mixup), ("cutmix", cutmix), ("mesa", mesa)):
            if value < 0:
                raise InputError(f"--model.{name} must be 0 or more, got {value}.")
        self.save_hyperparameters()
        self.save_hyperparameters({"mesa": mesa})
        if drop_path_rate is not None:
            size["drop_path_rate"] = drop_path_rate
        self.classes = len(spec["classes"])
        self.network = MLLA(**size, num_classes=self.classes, in_channels=spec["channels"], mixer=mixer, block=block)
        self.loss = SoftTargetCrossEntropy()
        self.mix: Mixup | None = None
        if mixup or cutmix:
            self.mix = Mixup(mixup, cutmix, label_smoothing=label_smoothing, num_classes=self.classes)
        self.top1, self.top5 = (
            MulticlassAccuracy(self.classes, top_k=min(k, self.classes), average="micro", ignore_index=UNCOUNTED)
            for k in (1, 5)
        )

    def moments(self) -> dict[str, Any]:
        spec = self.hparams["spec"]
        return {key: [255 * value for value in spec[key]] for key in ("mean", "std")}

    def forward(self, image: Tensor) -> Tensor:
        """Map normalised images ``(B, C, H, W)`` to logits ``(B, K)``."""
        return self.network(image)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        image, label = batch["image"], batch["label"]
        if self.mix is None:
            target = mixup_target(label, self.classes, smoothing=self.hparams["label_smoothing"])
        else:
            image, target = self.mix(image, label)
        logits = self.network(image)
        loss = self.loss(logits, target)
        if self.hparams["mesa"] and self.progress() >= self.hparams["mesa_start"]:
            loss = loss + self.hparams["mesa"] * mesa_loss(logits, self.averaged(image))
        return self.watch(mean_over_processes(loss), batch)

    @torch.no_grad()
    def averaged(self, image: Tensor) -> Tensor:
        """Return the logits ``(B, K)`` of the averaged weights, in evaluation mode."""
        average = ema_of(self.trainer)
        assert average is not None
        network = average.module.network.eval()
        return network(image.to(network.head.weight.dtype))  # the average stays float32 in trainings that are not

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.hparams["mesa"] and ema_of(self.trainer) is None:
            raise InputError(
                "MESA needs averaged weights: add mlla_seg.training.ema.WarmEMA to trainer.callbacks, or set "
                "--model.mesa 0."
            )
        data = getattr(self.trainer, "datamodule", None)
        if self.mix and data is not None and data.batch_size % (2 * self.trainer.world_size):
            raise InputError(
                f"--data.batch_size {data.batch_size} gives an odd number of images to each of "
                f"{self.trainer.world_size} devices, and Mixup mixes pairs: choose another, or set --model.mixup 0 "
                "--model.cutmix 0."
            )

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        logits, label = self.network(batch["image"]), batch["label"]
        self.top1.update(logits, label)
        self.top5.update(logits, label)

    def on_validation_epoch_end(self) -> None:
        self.log("val/top1", self.top1.compute(), prog_bar=True)
        self.log("val/top5", self.top5.compute())
        self.top1.reset()
        self.top5.reset()


def mesa_loss(logits: Tensor, averaged: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of predictions from those of the averaged weights, both ``(B, K)``.

    Source: MESA in arXiv 2205.14083, at temperature 1. The authors of MLLA add the cross-entropy instead, which differs
    by the entropy of the averaged prediction and has the same gradient.
    """
    wanted = averaged.to(logits.dtype).log_softmax(dim=-1)
    return F.kl_div(logits.log_softmax(dim=-1), wanted, reduction="batchmean", log_target=True)
