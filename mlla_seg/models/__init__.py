"""Segmentation networks by name.

Dimensions: B batch, S slices or tiles of a case, C channels, D depth, H height, W width, N tokens, h heads, d channels
per head, K classes. Every public boundary is ``(B, C, H, W)`` for images and ``(B, C, D, H, W)`` for volumes; feature
maps inside the encoder are ``(B, *spatial, C)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from mlla_seg.errors import InputError, lookup
from mlla_seg.models.arguments import require_numbers
from mlla_seg.models.decoders import DECODERS, OF_BLOCKS, OUTPUT_STRIDES, UNREAD_STAGES
from mlla_seg.models.foreign import ForeignEncoder, elsewhere
from mlla_seg.models.hub import BUILDERS
from mlla_seg.models.mlla import SIZES, Encoder, MLLAEncoder
from mlla_seg.models.own import OwnEncoder, class_of, is_class_path
from mlla_seg.models.segmenter import MLLAUNet, Segmenter
from mlla_seg.models.whole import NO_DECODER, NoDecoder, WholeNetwork

ENCODERS: dict[str, Callable[..., nn.Module]] = {name: partial(MLLAEncoder, **size) for name, size in SIZES.items()}
"""Encoders by name; a class of your own follows the contract of :class:`mlla_seg.models.own.OwnEncoder`."""


def create_model(
    encoder: str = "mlla_tiny",
    decoder: str = "mlla_unet",
    num_classes: int = 2,
    in_channels: int = 3,
    normalisation: Mapping[str, Any] | None = None,
    drop_path_rate: float | None = None,
    decoder_depths: Sequence[int] | None = None,
    mixer: str = "linear_attention",
    frame: Sequence[int] | None = None,
    norm_outputs: bool = True,
    block: str = "mlla",
    dims: int = 2,
    strides: Sequence[Sequence[int]] | None = None,
) -> Segmenter:
    """Build a segmenter from the names of its parts.

    Args:
        encoder: A key of ``ENCODERS``, such as ``"mlla_tiny"``; an encoder of another library with random weights, such
            as ``"timm/convnext_tiny"`` or ``"smp/resnet34"``; a whole network, such as ``"monai/dynunet"``; or the
            class path of an encoder of your own, whose module you have imported. Volumes need an MLLA encoder or a
            whole network.
        decoder: A key of ``DECODERS``, such as ``"mlla_unet"`` (as published), ``"mlla_unet_fine"`` (with skips at
            strides 2 and 1; recommended for volumes) or ``"upernet"``; ``"none"`` for whole networks.
        num_classes: Number of classes K, including background.
        in_channels: Channels of the image.
        normalisation: Arguments of :class:`~mlla_seg.models.segmenter.Normalise`; ``None`` leaves images unchanged.
        drop_path_rate: Stochastic-depth rate of MLLA blocks; defaults to that of the encoder size.
        decoder_depths: Blocks per level of the MLLA-UNet decoder, coarse to fine; defaults to (2, 2, 2).
        mixer: Token mixer of MLLA blocks, a key of :data:`mlla_seg.models.mixers.MIXERS` and its switches, such as
            ``"linear+rope+lepe"``.
        frame: Size of the training patches along each axis, in which smaller images are centred; ``None`` disables
            this.
        norm_outputs: Apply a LayerNorm to each feature map that an smp decoder reads from an MLLA encoder, as in the
            authors' dense-prediction backbone. Version 0.1 had none; MLLA-UNet has its own norms.
        block: Block design around the mixer, a key of :data:`mlla_seg.models.blocks.BLOCKS`.
        dims: Spatial axes: 2 for images ``(B, C, H, W)``, 3 for volumes ``(B, C, D, H, W)``.
        strides: Strides of the five steps along each axis, such as those of
            :func:`mlla_seg.data.halving.strides_for`; by default 2.

    Raises:
        InputError: Unknown name, a number that is not allowed, or an option that the encoder or decoder does not have.
    """
    arguments = dict(locals())
    require_numbers("create_model", arguments)
    arguments["strides"] = strides and [list(step) for step in strides]
    build_decoder = NoDecoder if decoder == NO_DECODER else lookup(DECODERS, decoder, "decoder")
    of_blocks = decoder in OF_BLOCKS
    if drop_path_rate is None:
        drop_path_rate = SIZES[encoder]["drop_path_rate"] if encoder in SIZES else 0.0
    blocks = {"drop_path_rate": drop_path_rate, "mixer": mixer, "block": block}
    network: Encoder
    if encoder in SIZES:
        maps = {"norm_outputs": norm_outputs and not of_blocks, "stage_inputs": of_blocks}
        network = _mlla_encoder(
            encoder, decoder, {"in_channels": in_channels, "dims": dims, "strides": strides, **blocks, **maps}
        )
    else:
        network = _other_encoder(encoder, decoder, in_channels, frame, dims, strides)
        if not of_blocks:
            _refuse_options_of_blocks(f"{encoder} with {decoder}", blocks)
    options: dict[str, Any] = {}
    if of_blocks:
        options = {**blocks, "depths": decoder_depths or (2, 2, 2)}
    elif decoder_depths is not None:
        raise InputError(
            f"decoder_depths applies to the decoder {' or '.join(OF_BLOCKS)}, not to {decoder!r}: set it to null."
        )
    segmenter = Segmenter(network, build_decoder(network, **options), num_classes, in_channels, normalisation, frame)
    segmenter.built_by = ("create_model", arguments)
    return segmenter


def _mlla_encoder(encoder: str, decoder: str, options: Mapping[str, Any]) -> MLLAEncoder:
    """Build an MLLA encoder with the output stride that the decoder reads, and norms only of maps that it reads."""
    network = ENCODERS[encoder](output_stride=OUTPUT_STRIDES.get(decoder, 32), **options)
    assert isinstance(network, MLLAEncoder)
    for stage in UNREAD_STAGES.get(decoder, ()):
        network.norms[stage] = nn.Identity()  # DDP fails on parameters without a gradient
    return network


def _other_encoder(
    encoder: str,
    decoder: str,
    in_channels: int,
    frame: Sequence[int] | None,
    dims: int,
    strides: Sequence[Sequence[int]] | None,
) -> Encoder:
    """Build an encoder of another library or of the user, or a whole network.

    Raises:
        InputError: Unknown name, or an option that it does not have.
    """
    if encoder.startswith("monai/"):
        if decoder != NO_DECODER:
            raise InputError(f"{encoder} is a whole network: set --model.decoder {NO_DECODER}, got {decoder}.")
        return WholeNetwork(encoder, in_channels, frame, dims, strides)
    own = None
    if is_class_path(encoder):
        own = class_of(encoder)
    elif "/" not in encoder:
        if encoder not in ENCODERS and (places := elsewhere(encoder)):
            raise InputError(f"Unknown encoder {encoder!r}; use {' or '.join(places)}.")
        own = lookup(ENCODERS, encoder, "encoder")
    if dims != 2 or strides:
        raise InputError(f"{encoder} takes images with default strides only: for dims and strides, use mlla_tiny.")
    output_stride = OUTPUT_STRIDES.get(decoder, 32)
    if own:
        return OwnEncoder(encoder, own, in_channels, output_stride)
    return ForeignEncoder(encoder, in_channels, output_stride)


def _refuse_options_of_blocks(network: str, options: Mapping[str, Any]) -> None:
    """Raise if options of MLLA blocks are set for a network without any.

    Raises:
        InputError: Names the option.
    """
    defaults = {"mixer": "linear_attention", "block": "mlla"}
    for name, value in options.items():
        if value and value != defaults.get(name):
            raise InputError(f"{name} applies to MLLA blocks, which {network} lacks: leave it out.")


BUILDERS.update(create_model=create_model, MLLAUNet=MLLAUNet)
