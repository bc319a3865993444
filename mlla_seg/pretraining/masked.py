"""Masked pretraining: LightningModule that learns to draw the masked patches of unlabelled images."""

from typing import Any, Literal, TypeAlias

import torch
from lightning.pytorch import Callback
from torch import Tensor

from mlla_seg.data.dataspec import DataSpec
from mlla_seg.errors import InputError, lookup
from mlla_seg.models import create_model
from mlla_seg.models.blocks import BLOCKS
from mlla_seg.models.masking import visible_at
from mlla_seg.models.mlla import MLLAEncoder
from mlla_seg.models.own import import_own, is_class_path
from mlla_seg.pretraining.autoencoder import MaskedAutoencoder, padded_size, reconstruction_loss, targets
from mlla_seg.pretraining.parts import PretrainingModule
from mlla_seg.pretraining.pictures import ReconstructionPictures
from mlla_seg.progress import note
from mlla_seg.training import optim

BlockName: TypeAlias = Literal[tuple(BLOCKS)]  # type: ignore[valid-type]
ScheduleName: TypeAlias = Literal[tuple(optim.SCHEDULES)]  # type: ignore[valid-type]
PLAIN = (0.0, "linear_attention", "mlla")
"""Options of MLLA blocks that leave other encoders as they are."""


class MaskedModule(PretrainingModule):
    """LightningModule of a masked autoencoder.

    Args:
        encoder: Name of the encoder as in ``fit``, also of timm and smp, or your own class's path.
        drop_path_rate: Stochastic depth rate of MLLA blocks; 0 by default, as masks regularise.
        mixer: Token mixer of the MLLA blocks, as in ``fit``.
        block: Block around the mixer: ``mlla``, ``transformer`` or ``mamba``.
        decoder_width: Channels of the decoder, which is not kept.
        patch_targets: Standardise each patch by its own mean and deviation before it is compared, as in MAE and SparK.
        optimizer: ``adamw``, ``sgd`` or another optimiser of timm, which include torch's.
        lr: Peak learning rate.
        weight_decay: Weight decay; not applied to norms and biases.
        schedule: Learning-rate schedule: ``cosine``, ``poly`` or ``constant``.
        warmup: Fraction of the training, in steps or time, with linear warm-up of the learning rate.
        spec: Description of the data: ``ImagesDataModule(...).spec.to_dict()``.
    """

    kind = "masked"
    best_by = ("train/loss", "min")

    def __init__(
        self,
        encoder: str = "mlla_tiny",
        drop_path_rate: float = 0.0,
        mixer: str = "linear_attention",
        block: BlockName = "mlla",
        decoder_width: int = 64,
        patch_targets: bool = True,
        optimizer: str = "adamw",
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        schedule: ScheduleName = "cosine",
        warmup: float = 0.1,
        spec: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if spec is None:
            raise InputError("MaskedModule needs the spec of its data: ImagesDataModule(...).spec.to_dict().")
        lookup(optim.SCHEDULES, schedule, "schedule")
        optim.require_optimizer(optimizer)
        if decoder_width < 1:
            raise InputError(f"--model.decoder_width must be 1 or more, got {decoder_width}.")
        self.save_hyperparameters()
        self.spec = DataSpec.of(spec)
        if encoder.startswith("monai/"):
            raise InputError(f"{encoder} is a whole network: pretrain an encoder, such as mlla_tiny or smp/resnet34.")
        if is_class_path(encoder):
            import_own(encoder)
        built = create_model(
            encoder,
            in_channels=self.spec.in_channels,
            drop_path_rate=drop_path_rate,
            mixer=mixer,
            block=block,
        )
        if not isinstance(built.encoder, MLLAEncoder) and (drop_path_rate, mixer, block) != PLAIN:
            raise InputError(f"drop_path_rate, mixer and block apply to MLLA blocks, which {encoder} lacks.")
        self.network = MaskedAutoencoder(built.encoder, decoder_width)

    def moments(self) -> dict[str, Any]:
        return self.spec.normalisation.to_dict()

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Tensor:
        """Draw normalised images ``(B, C, H, W)`` of which the patches ``(B, h, w)`` are visible."""
        return self.network(image, visible)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.network.why_filled and self.global_rank == 0:
            note(
                f"note: masked patches of {self.hparams['encoder']} are filled with the mean, as in SimMIM, because "
                f"{self.network.why_filled}; MLLA encoders leave them out."
            )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        image, visible, valid = batch["image"], batch["visible"], batch["valid"]
        target = targets(image, visible, valid)[0] if self.hparams["patch_targets"] else image
        drawn = self.network(image, visible)
        return self.watch(reconstruction_loss(drawn, target, visible, valid), batch)

    @torch.no_grad()
    def reconstruct(self, batch: dict[str, Any]) -> Tensor:
        """Return images ``(B, C, H, W)`` with drawings at their masked patches, in evaluation mode.

        If patches are standardised, their own mean and deviation, which the network does not see, are put back.
        """
        dtype = next(self.network.parameters()).dtype
        image = batch["image"].to(self.device, dtype)
        visible, valid = batch["visible"].to(self.device), batch["valid"].to(self.device)
        training = self.network.training
        drawn = self.network.eval()(image, visible)
        self.network.train(training)
        if self.hparams["patch_targets"]:
            _, mean, deviation = targets(image, visible, valid)
            drawn = drawn * deviation + mean
        seen = visible_at(visible, *padded_size(image.shape[2:]))[:, None, : image.shape[2], : image.shape[3]]
        return torch.where(seen, image, drawn)

    def configure_callbacks(self) -> list[Callback]:
        return [ReconstructionPictures()]
