"""LightningModule of a segmenter: network, loss and metrics; :mod:`mlla_seg.training.optimised` steps it."""

from collections.abc import Sequence
from inspect import signature
from typing import Any, Literal, TypeAlias

import torch
from lightning.pytorch import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.postprocessing import Step, applied
from mlla_seg.data.regions import membership
from mlla_seg.errors import InputError, about, lookup
from mlla_seg.evaluation.calibration import CaseCalibration
from mlla_seg.evaluation.overlap import CaseTable
from mlla_seg.evaluation.postprocessing_choice import Candidate, PackedMask
from mlla_seg.evaluation.regions import measured
from mlla_seg.evaluation.transunet_protocol import transunet_labels, transunet_scores
from mlla_seg.inference.cases import Watch, predict_case
from mlla_seg.models.blocks import BLOCKS
from mlla_seg.models.checkpoint import build_network, network_axes
from mlla_seg.models.decoders import DECODERS
from mlla_seg.models.ensemble import combined
from mlla_seg.models.own import is_class_path
from mlla_seg.models.recompute import CHECKPOINTING, set_checkpointing
from mlla_seg.models.segmenter import Segmenter
from mlla_seg.models.supervision import AuxiliaryHeads, supervision_weights
from mlla_seg.models.whole import NO_DECODER
from mlla_seg.progress import note
from mlla_seg.training import optim
from mlla_seg.training.freezing import FREEZABLE, Freezing
from mlla_seg.training.ineffective import ineffective
from mlla_seg.training.losses import SegmentationLoss
from mlla_seg.training.mean_teacher import consistency_loss, ramped, teacher_callbacks, teacher_logits
from mlla_seg.training.numbers import MODEL, require_numbers
from mlla_seg.training.optimised import OptimisedModule
from mlla_seg.training.own_loss import OwnLoss
from mlla_seg.training.scoring import Scoring, case_scores, empty_tables, evaluated, published_size, single_slices
from mlla_seg.training.starting import note_seen, start_from

# Literals built from the registries, so that --help lists the choices.
DecoderName: TypeAlias = Literal[(*DECODERS, NO_DECODER)]  # type: ignore[valid-type]
BlockName: TypeAlias = Literal[tuple(BLOCKS)]  # type: ignore[valid-type]
Part: TypeAlias = Literal[FREEZABLE]  # type: ignore[valid-type]
ScheduleName: TypeAlias = Literal[tuple(optim.SCHEDULES)]  # type: ignore[valid-type]
Checkpointing: TypeAlias = Literal[CHECKPOINTING]  # type: ignore[valid-type]


class SegmentationModule(OptimisedModule):
    """LightningModule that trains a segmenter and scores it case by case.

    Args:
        encoder: Name of the encoder, such as ``mlla_tiny``; ``timm/NAME`` or ``smp/NAME`` for other libraries'
            encoders, ``monai/dynunet`` or ``monai/segresnet`` for a complete network, or your own class's path.
        decoder: Name of the decoder, such as ``mlla_unet``; ``none`` for complete networks.
        decoder_depths: Blocks per level of the MLLA-UNet decoder, from coarse to fine.
        drop_path_rate: Stochastic depth rate; by default the published rate of the encoder's size.
        mixer: Token mixer of the MLLA blocks: ``linear_attention`` (MLLA's), ``linear`` (the paper's baseline),
            ``softmax``, ``selective_ssm``, ``inline``, ``rala``, ``nc_ssd``, or a control: ``identity``, ``lepe``
            (local convolution) or ``lepe_matched`` (with as many parameters as MLLA's). Switches follow the name:
            ``linear`` takes ``+input_gate``, ``+forget_gate``, ``+shortcut``, ``-normalisation`` and ``-heads``; it and
            ``softmax`` take ``+rope`` and ``+lepe``; all take ``+ape``, and ``+cpe`` in other blocks than ``mlla``.
        block: Block around the mixer: ``mlla``, ``transformer`` or ``mamba``.
        norm_outputs: LayerNorm on each feature map of an MLLA encoder before an smp decoder; see ``create_model``.
        dims: 2 for a network of slices or images, 3 for volumes as volumes, in patches of ``--data.crop`` or else of a
            size chosen from the data; by default 3 if ``--data.crop`` has three numbers.
        strides: Strides of the five halvings along each axis, such as ``[[1,2,2],[1,2,2],[2,2,2],[2,2,2],[1,2,2]]``;
            by default 2 for images, and for volumes as nnU-Net chooses them from the spacing and the size of patches.
        pretrained: File of pretrained weights to start from; see ``load_pretrained``.
        freeze: ``encoder`` keeps the weights and batch-norm statistics of the encoder.
        freeze_steps: Optimiser steps after which the encoder is trained too; by default never.
        optimizer: ``adamw``, ``sgd`` or another optimiser of timm, which include torch's.
        lr: Peak learning rate.
        encoder_lr_factor: Learning rate of the encoder relative to ``lr``; below 1 for pretrained encoders.
        weight_decay: Weight decay; not applied to norms and biases.
        schedule: Learning-rate schedule: ``cosine``, ``poly`` or ``constant``.
        warmup: Fraction of the training, in steps or time, with linear warm-up of the learning rate.
        loss: ``dice`` (cross-entropy + Dice), ``focal`` (focal + Dice), ``tversky`` (cross-entropy + Tversky) or
            ``lovasz`` (cross-entropy + Lovász); or a class of your own, such as ``my_package.my_module.MyLoss``.
        ce_weight: Weight of the cross-entropy or focal loss, which is binary for regions.
        dice_weight: Weight of the Dice, Tversky or Lovász loss.
        class_weights: One weight per class, or per region, used in both losses but Lovász's.
        squared_dice: Square the probabilities in the denominator of Dice, as TransUNet does.
        deep_supervision: Also train the coarser levels of the decoder, an MLLA-UNet's, to predict the classes;
            recommended for volumes.
        consistency: Weight of the mean teacher's loss, with ``--data.unlabelled``.
        consistency_rampup: Fraction of the training over which this weight rises.
        checkpoint_stages: Activation checkpointing: ``none``, MLLA ``blocks`` or ``all`` of the network.
        eval_batch_size: Slices per forward pass in validation and test.
        spec: Description of the data: ``SegmentationDataModule(...).spec``, or a dict with channels and classes.
    """

    network: Segmenter
    heads: AuxiliaryHeads | None

    def __init__(
        self,
        encoder: str = "mlla_tiny",
        decoder: DecoderName = "mlla_unet",
        decoder_depths: list[int] | None = None,
        drop_path_rate: float | None = None,
        mixer: str = "linear_attention",
        block: BlockName = "mlla",
        norm_outputs: bool = True,
        dims: int | None = None,
        strides: list[list[int]] | None = None,
        pretrained: str | None = None,
        freeze: Part | None = None,
        freeze_steps: int | None = None,
        optimizer: str = "adamw",
        lr: float = 5e-4,
        encoder_lr_factor: float = 1.0,
        weight_decay: float = 0.05,
        schedule: ScheduleName = "cosine",
        warmup: float = 0.05,
        loss: str = "dice",
        ce_weight: float = 1.0,
        dice_weight: float = 1.0,
        class_weights: list[float] | None = None,
        squared_dice: bool = False,
        deep_supervision: bool = False,
        consistency: float = 0.1,
        consistency_rampup: float = 1.0,
        checkpoint_stages: Checkpointing = "none",
        eval_batch_size: int = 16,
        spec: DataSpec | dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if spec is None:
            raise InputError("SegmentationModule needs the spec of its data: SegmentationDataModule(...).spec.")
        lookup(optim.SCHEDULES, schedule, "schedule")
        optim.require_optimizer(optimizer)
        self.freezing = Freezing(freeze, freeze_steps)
        require_numbers(locals(), MODEL)
        self.spec = DataSpec.of(spec)
        if dims not in (None, self.spec.axes):
            raise InputError(f"dims is {dims}, but the data have {self.spec.axes} axes: pass the same dims to both.")
        names = self.spec.output_names
        if class_weights is not None and len(class_weights) != len(names):
            what = "regions" if self.spec.regions else "classes"
            raise InputError(
                f"class_weights has {len(class_weights)} entries for {len(names)} {what}: {', '.join(names)}."
            )
        self.save_hyperparameters(ignore="spec")
        self.save_hyperparameters({"spec": self.spec.to_dict(), **network_axes(self.spec, strides)})
        self.network = build_network(dict(self.hparams))
        regions = membership(self.spec.regions, len(self.spec.classes))
        self.freezing.prepare(self.network)
        self.loss = (
            OwnLoss(loss, len(self.spec.classes), self.spec.axes, of_regions=regions is not None)
            if is_class_path(loss)
            else SegmentationLoss(ce_weight, dice_weight, class_weights, squared_dice, regions=regions, kind=loss)
        )
        self.heads = AuxiliaryHeads(self.network) if deep_supervision else None
        self.scoring = Scoring()
        self.starts_from = pretrained
        self.tables: dict[str, CaseTable] = {}
        self.postprocessing: tuple[Step, ...] = ()  # of scored masks
        self.candidates: list[Candidate] | None = None  # if post-processing is chosen
        self.members: list[Segmenter] = []  # further members of an ensemble, for scoring
        self.flips: Sequence[str] = ()  # axes of test-time augmentation, for scoring

    def setup(self, stage: str) -> None:
        super().setup(stage)
        set_checkpointing(self.network, self.hparams["checkpoint_stages"] if stage == "fit" else "none")
        if stage == "fit" and self.starts_from:
            for line in start_from(self.network, self.starts_from, self.spec):
                rank_zero_only(note)(line)
            if (data := getattr(self._trainer, "datamodule", None)) is not None:
                rank_zero_only(note_seen)(self.starts_from, [*data.splits.val, *data.splits.test])
        if stage == "fit" and not (self.starts_from or getattr(self._trainer, "ckpt_path", None)):
            rank_zero_only(self.freezing.note_random_weights)()
        if stage == "fit":
            defaults = {name: option.default for name, option in signature(SegmentationModule).parameters.items()}
            for line in ineffective(self.hparams, defaults, getattr(self._trainer, "datamodule", None)):
                rank_zero_only(note)(f"note: {line}")

    def teardown(self, stage: str) -> None:
        set_checkpointing(self.network, "none")

    def forward(self, image: Tensor) -> Tensor:
        """Map images ``(B, C, H, W)`` in raw units to logits ``(B, K, H, W)``."""
        return self.network(image)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        if self.freezing.ends(self.global_step):
            self.freezing.begin(self.network, self.global_step)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        if "unlabelled" in batch:
            return self._step_with_teacher(batch, batch["unlabelled"])
        logits, coarser = self._logits(batch["image"])
        return self.watch(self._loss(logits, coarser, batch["mask"]), batch)

    def _logits(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits of images that are already normalised, and with deep supervision those of coarser levels."""
        if self.heads is None:
            return self.network.segment(image), []
        with self.heads.watch(self.network) as coarser:
            logits = self.network.segment(image)
        return logits, coarser

    def _loss(self, logits: Tensor, coarser: list[Tensor], mask: Tensor) -> Tensor:
        """Return the loss, with deep supervision the weighted mean over the levels."""
        if self.heads is None:
            return self.loss(logits, mask)
        weights = supervision_weights(1 + len(coarser))
        levels = zip((logits, *coarser), (mask, *self.heads.truths(mask, self.network)), weights, strict=True)
        return torch.stack([weight * self.loss(one, truth) for one, truth, weight in levels]).sum()

    def _step_with_teacher(self, batch: dict[str, Any], further: dict[str, Any]) -> Tensor:
        """Return the loss of labelled images and, from the second step on, of those without labels."""
        count = len(batch["image"])
        logits, coarser = self._logits(torch.cat((batch["image"], further["image"])))
        loss = self._loss(logits[:count], [level[:count] for level in coarser], batch["mask"])
        if self.global_step:  # before, the average holds the weights of the start
            wanted = teacher_logits(self.trainer, further["plain"])
            weight = self.hparams["consistency"] * ramped(self.progress(), self.hparams["consistency_rampup"])
            regions = bool(self.spec.regions)
            loss = loss + weight * consistency_loss(logits[count:], wanted, further["valid"], regions)
        return self.watch(loss, {"image": batch["image"], "name": [*batch["name"], *further["name"]]})

    def configure_callbacks(self) -> list[Callback]:
        data = getattr(self._trainer, "datamodule", None)
        return teacher_callbacks(self.trainer) if data is not None and data.unlabelled is not None else []

    def on_after_backward(self) -> None:
        super().on_after_backward()
        if self.freezing.holds(self.global_step):
            self.freezing.drop_gradients(self.network)

    def on_train_start(self) -> None:
        super().on_train_start()
        self.freezing.begin(self.network, self.global_step)

    def on_validation_epoch_start(self) -> None:
        self._begin(self.trainer.val_dataloaders)

    def validation_step(self, case: dict[str, Any], batch_idx: int) -> None:
        self._score(case)

    def on_validation_epoch_end(self) -> None:
        self._conclude("val", self.trainer.val_dataloaders)

    def on_test_epoch_start(self) -> None:
        self._begin(self.trainer.test_dataloaders)

    def test_step(self, case: dict[str, Any], batch_idx: int) -> None:
        self._score(case)

    def on_test_epoch_end(self) -> None:
        self._conclude("test", self.trainer.test_dataloaders)

    def predict_case(
        self, image: Tensor, spacing_mm: Sequence[float] | None = None, watch: Watch | None = None
    ) -> Tensor:
        """Return labels ``(S, H, W)`` of a case ``(S, C, H, W)`` in raw units; ``watch`` is shown the logits."""
        batch_size, view, writes = self.hparams["eval_batch_size"], self.spec.view, self.spec.writes
        labels = predict_case(self._scorer(), image, view, spacing_mm, self.device, batch_size, writes, watch)
        return torch.from_numpy(applied(labels.numpy(), self.postprocessing, self.spec.background, spacing_mm))

    def predict_slice(self, image: Tensor, position: int, spacing_mm: Sequence[float] | None = None) -> Tensor:
        """Return labels ``(H, W)`` of one slice, predicting as few of the other slices as possible."""
        view = self.spec.view
        resampled = view.grid((len(image), *image.shape[-2:]), spacing_mm)[0] != len(image)  # along the slice axis
        if resampled or view.per_case or view.axes == 3 or self.postprocessing:
            return self.predict_case(image, spacing_mm)[position]
        first = max(0, position - view.context)
        around = image[first : position + view.context + 1]
        return self.predict_case(around, spacing_mm)[position - first]

    def _scorer(self) -> torch.nn.Module:
        others = [member.to(self.device).eval() for member in self.members]
        return combined(self.network, others, self.spec.writes, self.flips)

    def _begin(self, loader: Any) -> None:
        """Create a table per measure; during training only the confusion matrices are collected."""
        cases = loader.dataset.cases
        self.unit = "mm" if all(case.spacing_mm for case in cases) else "voxel"
        self.tables = empty_tables(self.scoring, self.spec, cases, self.trainer.state.fn is TrainerFn.FITTING)
        for table in self.tables.values():
            table.to(self.device)

    def _score(self, case: dict[str, Any]) -> None:
        index, image, mask = case["index"], case["image"].cpu(), case["mask"].cpu()
        calibration = CaseCalibration(mask, self.spec) if "calibration" in self.tables else None
        with about(case["name"]):
            prediction = self.predict_case(image, case["spacing_mm"], calibration.add if calibration else None)
        if calibration is not None:
            self.tables["calibration"].update(index, calibration.counts)
        if self.candidates is not None:
            masks = PackedMask(prediction.numpy()), PackedMask(mask.numpy())
            self.candidates.append(Candidate(case["name"], *masks, case["spacing_mm"]))
        spacing = case["spacing_mm"] if self.unit == "mm" else (1.0, 1.0, 1.0)
        for name, scores in case_scores(prediction, mask, spacing, self.scoring, self.spec, self.tables):
            self.tables[name].update(index, scores)
        if "published" in self.tables:
            size, batch_size, writes = published_size(self.spec), self.hparams["eval_batch_size"], self.spec.writes
            with about(case["name"]):
                labels = transunet_labels(self._scorer(), image, self.spec.view, size, self.device, batch_size, writes)
            self.tables["published"].update(index, measured(transunet_scores, labels, mask, self.spec))

    def _conclude(self, split: str, loader: Any) -> None:
        tables: dict[str, Any] = {name: table.compute().cpu() for name, table in self.tables.items()}
        self.evaluation, cases = evaluated(tables, loader.dataset.cases, self.spec, self.scoring, self.unit)
        if single_slices(cases):
            self.log(f"{split}/pooled_iou", self.evaluation.pooled()["iou"], rank_zero_only=False)
        for name, value in self.evaluation.means().items():
            if self.trainer.state.fn is not TrainerFn.FITTING or name.startswith(("dice", "iou")):
                self.log(f"{split}/{name}", value, prog_bar=name == "dice", rank_zero_only=False)
