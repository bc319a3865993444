"""The LightningModule: network, loss, metrics and optimiser, nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from mlla_seg._version import __version__
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.store import StoredCase
from mlla_seg.errors import InputError, about, lookup
from mlla_seg.evaluation.boundary_iou import WIDTH, boundary_counts
from mlla_seg.evaluation.overlap import CaseTable, case_confusion, seen_cases
from mlla_seg.evaluation.scores import PROTOCOLS, Evaluation
from mlla_seg.evaluation.surface_distance import case_surface_scores
from mlla_seg.evaluation.transunet_protocol import SIZE, transunet_labels, transunet_scores
from mlla_seg.finite import LOWER_RATE, require_finite_loss, require_finite_weights
from mlla_seg.inference.cases import predict_case
from mlla_seg.models.checkpoint import CHECKPOINT_KEY, build_network
from mlla_seg.models.decoders import DECODERS
from mlla_seg.models.ensemble import Ensemble, Flips
from mlla_seg.models.mixers import MIXERS
from mlla_seg.models.recompute import CHECKPOINTING, set_checkpointing
from mlla_seg.models.segmenter import Segmenter
from mlla_seg.models.supervision import AuxiliaryHeads
from mlla_seg.models.weights import load_pretrained
from mlla_seg.models.whole import NO_DECODER
from mlla_seg.training.distributed import gathered, step_seed
from mlla_seg.training.horizon import limits_time, steps_left, time_used, total_steps
from mlla_seg.training.losses import SegmentationLoss, deeply_supervised
from mlla_seg.training.optim import PARTS, SCHEDULES, learning_rate_factor, parameter_groups, regrouped

# Of the tables, so that --help lists them.
ProtocolName: TypeAlias = Literal[tuple(PROTOCOLS)]  # type: ignore[valid-type]
DecoderName: TypeAlias = Literal[(*DECODERS, NO_DECODER)]  # type: ignore[valid-type]
MixerName: TypeAlias = Literal[tuple(MIXERS)]  # type: ignore[valid-type]
ScheduleName: TypeAlias = Literal[tuple(SCHEDULES)]  # type: ignore[valid-type]
Checkpointing: TypeAlias = Literal[CHECKPOINTING]  # type: ignore[valid-type]


@dataclass
class Scoring:
    """How ``validate`` and ``test`` score; nothing of it is learned, so it is not in checkpoints.

    Args:
        evaluation: ``native``, or ``transunet`` to add the evaluation of the papers on Synapse and ACDC.
        distances: Whether to measure HD95, ASSD and NSD as well, which takes time and says little of maps.
        nsd_tolerance: Distance up to which surfaces agree, in millimetres, or voxels where the spacing is not known.
        boundary_width: Pixels from the edge of a region that count for the boundary IoU of images of one slice.
        tta: Mean over the four mirror images of each slice.
        members: Further checkpoints, whose probabilities are averaged with those of ``ckpt_path``;
            ``--ckpt_path a.ckpt b.ckpt`` is short for it.
    """

    evaluation: ProtocolName = "native"
    distances: bool = True
    nsd_tolerance: float = 2.0
    boundary_width: int = WIDTH
    tta: bool = False
    members: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        lookup(PROTOCOLS, self.evaluation, "evaluation")
        if self.evaluation == "transunet" and not self.distances:
            raise InputError("--evaluation transunet is made of distances: leave out --distances false.")
        if self.boundary_width < 1:
            raise InputError(f"--boundary_width is a number of pixels, 1 or more, got {self.boundary_width}.")
        if self.nsd_tolerance < 0:
            raise InputError(f"--nsd_tolerance is a distance, 0 or more, got {self.nsd_tolerance}.")


def single_slices(cases: Sequence[StoredCase]) -> bool:
    """Whether cases are maps or photos, which are judged by all their pixels together, and not volumes."""
    return all(case.shape[0] == 1 for case in cases)


class SegmentationModule(LightningModule):
    """Trains a segmenter and scores it case by case.

    Args:
        encoder: Name of the encoder, such as ``mlla_tiny``; ``timm/NAME`` or ``smp/NAME`` to compare with, or a whole
            network, ``monai/dynunet`` or ``monai/segresnet``.
        decoder: Name of the decoder, such as ``mlla_unet``; ``none`` for whole networks.
        decoder_depths: Blocks per level of the MLLA-UNet decoder, from coarse to fine.
        drop_path_rate: Stochastic depth; by default what the encoder's size was published with.
        mixer: Token mixer of the MLLA blocks: ``linear_attention``, or a control: ``identity``, ``lepe`` (the local
            convolution alone), ``lepe_matched`` (that with as many parameters as attention).
        norm_outputs: A LayerNorm on each map of an MLLA encoder before a decoder of smp; see ``create_model``.
        pretrained: File of released weights to start from; see ``load_pretrained``.
        lr: Peak learning rate of AdamW.
        encoder_lr_factor: Learning rate of the encoder as a factor of ``lr``: below 1 for pretrained ones.
        weight_decay: Decay of weights, none on norms and biases.
        schedule: ``cosine``, ``poly`` or ``constant``.
        warmup: Fraction of the training, in steps or time, in which the learning rate rises.
        ce_weight: Weight of the cross-entropy.
        dice_weight: Weight of the Dice loss.
        class_weights: One weight per class in both losses.
        squared_dice: Squared probabilities in Dice's denominator, as in TransUNet's recipe.
        deep_supervision: Ask the levels of MLLA-UNet's decoder at strides 8 and 16 for the classes too, in training.
        checkpoint_stages: Memory for time in training: ``none``, or what is computed again in the backward pass instead
            of being kept: MLLA ``blocks``, or ``all`` of the network.
        eval_batch_size: Slices of a case that go through the network at once in validation and test.
        spec: What the data are: ``SegmentationDataModule(...).spec``, or a plain dict with channels and classes.
    """

    def __init__(
        self,
        encoder: str = "mlla_tiny",
        decoder: DecoderName = "mlla_unet",
        decoder_depths: list[int] | None = None,
        drop_path_rate: float | None = None,
        mixer: MixerName = "linear_attention",
        norm_outputs: bool = True,
        pretrained: str | None = None,
        lr: float = 5e-4,
        encoder_lr_factor: float = 1.0,
        weight_decay: float = 0.05,
        schedule: ScheduleName = "cosine",
        warmup: float = 0.05,
        ce_weight: float = 1.0,
        dice_weight: float = 1.0,
        class_weights: list[float] | None = None,
        squared_dice: bool = False,
        deep_supervision: bool = False,
        checkpoint_stages: Checkpointing = "none",
        eval_batch_size: int = 16,
        spec: DataSpec | dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if spec is None:
            raise InputError("SegmentationModule needs the spec of its data: SegmentationDataModule(...).spec.")
        lookup(SCHEDULES, schedule, "schedule")
        if encoder_lr_factor < 0:
            raise InputError(f"--model.encoder_lr_factor is a factor of the learning rate, got {encoder_lr_factor}.")
        self.spec = DataSpec.of(spec)
        classes = self.spec.class_names
        if class_weights is not None and len(class_weights) != len(classes):
            raise InputError(
                f"class_weights has {len(class_weights)} entries for {len(classes)} classes: {', '.join(classes)}."
            )
        self.save_hyperparameters(ignore="spec")
        self.save_hyperparameters({"spec": self.spec.to_dict()})
        self.class_names = classes
        self.network = build_network(dict(self.hparams))
        self.loss = SegmentationLoss(ce_weight, dice_weight, class_weights, squared_dice)
        self.supervision = AuxiliaryHeads(self.network) if deep_supervision else None
        self.scoring = Scoring()
        self.starts_from = pretrained
        self.options: dict[str, Any] = {}  # of data and trainer, for the checkpoint
        self.time_used = 0.0  # of the time that the training may take, a fraction
        self.watched: tuple[Tensor, Sequence[str]]  # loss and cases of the latest batch
        self.tables: dict[str, CaseTable] = {}
        self.members: list[Segmenter] = []  # averaged with the network where an ensemble is scored

    def setup(self, stage: str) -> None:
        set_checkpointing(self.network, self.hparams["checkpoint_stages"] if stage == "fit" else "none")
        if stage == "fit" and self.starts_from:
            rank_zero_info(f"{self.starts_from}: {load_pretrained(self.network, self.starts_from)}")

    def teardown(self, stage: str) -> None:
        set_checkpointing(self.network, "none")

    def forward(self, image: Tensor) -> Tensor:
        """Maps images ``(B, C, H, W)`` in raw units to logits ``(B, K, H, W)``."""
        return self.network(image)

    def on_fit_start(self) -> None:
        self.seed = torch.initial_seed()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Lets every process drop other paths, which are those of the seed, the process and the step alone."""
        torch.manual_seed(step_seed(self.seed, self.global_rank, self.current_epoch, batch_idx))
        if limits_time(self.trainer):  # validation may have taken some since the scheduler's step
            self._set_rates()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        watch = self.supervision.watch(self.network) if self.supervision else nullcontext(())
        with watch as coarser:
            logits = self.network.segment(batch["image"])  # normalised before the augmentation
        loss = deeply_supervised(self.loss, logits, coarser, batch["mask"])
        self.watched = loss.detach(), batch.get("name", [])
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch["image"]))
        return loss

    def on_after_backward(self) -> None:
        """Stops before the optimiser's step where the loss is no number; it is the same in every process.

        Asked here and not before the backward pass, so that a GPU has work while it is waited for.
        """
        loss, names = self.watched
        if not loss.isfinite():
            require_finite_loss(float(loss), self.trainer.global_step, gathered(names))

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

    def predict_case(self, image: Tensor, spacing_mm: Sequence[float] | None = None) -> Tensor:
        """Label map ``(S, H, W)`` of a case ``(S, C, H, W)`` in raw units."""
        batch_size = self.hparams["eval_batch_size"]
        return predict_case(self._scorer(), image, self.spec.view, spacing_mm, self.device, batch_size)

    def predict_slice(self, image: Tensor, position: int, spacing_mm: Sequence[float] | None = None) -> Tensor:
        """Labels ``(H, W)`` of one slice of a case, without predicting the others where they do not matter."""
        view = self.spec.view
        resampled = view.grid((len(image), *image.shape[-2:]), spacing_mm)[0] != len(image)  # between slices
        if resampled or view.per_case:
            return self.predict_case(image, spacing_mm)[position]
        first = max(0, position - view.context)
        around = image[first : position + view.context + 1]
        return self.predict_case(around, spacing_mm)[position - first]

    @property
    def published_size(self) -> Sequence[int]:
        """Height and width at which the evaluation of TransUNet shows slices to the network."""
        return self.spec.resize if isinstance(self.spec.resize, tuple) else SIZE

    def _scorer(self) -> torch.nn.Module:
        """What is scored: the network, with its other members and mirror images where they were asked for."""
        others = [member.to(self.device).eval() for member in self.members]
        network = Ensemble([self.network, *others]) if others else self.network
        return Flips(network) if self.scoring.tta else network

    def _begin(self, loader: Any) -> None:
        """Makes a table for everything that is measured: between epochs of training only what overlaps."""
        cases, classes = loader.dataset.cases, len(self.class_names)
        self.unit = "mm" if all(case.spacing_mm for case in cases) else "voxel"
        self.tables = {"confusion": CaseTable(len(cases), classes, classes)}
        if self.trainer.state.fn is not TrainerFn.FITTING:
            if self.scoring.distances:
                self.tables["surfaces"] = CaseTable(len(cases), classes, 3, dtype=torch.float32)
            if single_slices(cases):
                self.tables["boundaries"] = CaseTable(len(cases), classes, 2)
            if self.scoring.evaluation == "transunet":
                self.tables["published"] = CaseTable(len(cases), classes, 2, dtype=torch.float32)
        for table in self.tables.values():
            table.to(self.device)

    def _score(self, case: dict[str, Any]) -> None:
        index, image, mask, classes = case["index"], case["image"].cpu(), case["mask"].cpu(), len(self.class_names)
        with about(case["name"]):
            prediction = self.predict_case(image, case["spacing_mm"])
        self.tables["confusion"].update(index, case_confusion(prediction, mask, classes))
        if "boundaries" in self.tables:
            counts = boundary_counts(prediction, mask, classes, self.scoring.boundary_width)
            self.tables["boundaries"].update(index, counts)
        if "surfaces" in self.tables:
            spacing = case["spacing_mm"] if self.unit == "mm" else (1.0, 1.0, 1.0)
            tolerance, background = self.scoring.nsd_tolerance, self.spec.background
            scores = case_surface_scores(prediction, mask, classes, spacing, tolerance, background=background)
            self.tables["surfaces"].update(index, scores)
        if "published" in self.tables:
            with about(case["name"]):
                size, batch_size = self.published_size, self.hparams["eval_batch_size"]
                labels = transunet_labels(self._scorer(), image, self.spec.view, size, self.device, batch_size)
            self.tables["published"].update(index, transunet_scores(labels, mask, classes))

    def _conclude(self, split: str, loader: Any) -> None:
        tables = {name: table.compute().cpu() for name, table in self.tables.items()}  # the same in every process
        seen = seen_cases(tables["confusion"])
        cases = [loader.dataset.cases[i] for i in seen.tolist()]
        self.evaluation = Evaluation(
            [case.name for case in cases],
            self.class_names,
            self.spec.background,
            unit=self.unit,
            tolerance=self.scoring.nsd_tolerance,
            voxel_ml=[math.prod(case.spacing_mm) / 1000 if case.spacing_mm else math.nan for case in cases],
            **{name: table[seen] for name, table in tables.items()},
        )
        if single_slices(cases):
            self.log(f"{split}/pooled_iou", self.evaluation.pooled()["iou"], rank_zero_only=False)
        for name, value in self.evaluation.means().items():
            if self.trainer.state.fn is not TrainerFn.FITTING or name.startswith(("dice", "iou")):
                self.log(f"{split}/{name}", value, prog_bar=name == "dice", rank_zero_only=False)

    def configure_optimizers(self) -> Any:
        self.total_steps = total_steps(self.trainer)
        optimizer = torch.optim.AdamW(self._groups(), lr=self.hparams["lr"])
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.rate(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def rate(self, step: int) -> float:
        """Factor of the learning rate at an optimiser step; where time ends the training, what is further on counts."""
        total: float = self.total_steps
        if total == math.inf:
            step, total = 0, PARTS
        at = max(step, self.time_used * total)
        return learning_rate_factor(at, int(total), round(self.hparams["warmup"] * total), self.hparams["schedule"])

    def on_train_start(self) -> None:
        """Puts the rates, decay and schedule of the present options in place of those that came with a checkpoint."""
        (optimizer,), scheduler = self.trainer.optimizers, self.trainer.lr_scheduler_configs[0].scheduler
        if scheduler.last_epoch:
            self.total_steps = scheduler.last_epoch + steps_left(self.trainer)
        for group, wanted in zip(optimizer.param_groups, self._groups(), strict=True):
            group |= {"initial_lr": wanted["lr"], "weight_decay": wanted["weight_decay"]}
        scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self._set_rates()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.global_step == self.trainer.max_steps:
            self.trainer.should_stop = True  # has the last weights validated, also in the middle of an epoch

    def _set_rates(self) -> None:
        """Brings the learning rates to what they are now; the scheduler does it after each step."""
        self.time_used = time_used(self.trainer)
        (optimizer,), scheduler = self.trainer.optimizers, self.trainer.lr_scheduler_configs[0].scheduler
        factor = self.rate(scheduler.last_epoch)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Divides the optimiser's state into the groups of the present options, which may be more or fewer."""
        sizes = [len(group["params"]) for group in self._groups()]
        for state in checkpoint.get("optimizer_states", ()):
            state["param_groups"] = regrouped(state["param_groups"], sizes)

    def _groups(self) -> list[dict[str, Any]]:
        how = {key: self.hparams[key] for key in ("lr", "weight_decay", "encoder_lr_factor")}
        return parameter_groups(self.network, **how, further=self.supervision.parameters() if self.supervision else ())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for key in (
            "state_dict",
            "current_model_state",
        ):  # the average, then, and the last step's weights
            require_finite_weights("Nothing is saved", checkpoint.get(key, {}), LOWER_RATE)
        checkpoint[CHECKPOINT_KEY] = __version__
        checkpoint["options"] = self.options
