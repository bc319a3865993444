"""MLLA for timm: ``import mlla_seg.plugins.timm``, then ``timm.create_model("mlla_tiny", num_classes=10)``.

Supports classifiers and ``features_only=True``, hence also ``smp.Unet("tu-mlla_tiny", ...)``. Each feature map has a
LayerNorm, as in the authors' dense-prediction backbone, unless ``norm_outputs=False``. Nothing is downloaded; load a
local file of released weights with ``mlla_seg.load_pretrained(model, "mlla_t.pth")`` or through timm:
``checkpoint_path="mlla_t.pth"``, or ``pretrained=True, pretrained_cfg_overlay={"file": "mlla_t.pth"}``.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

try:
    import timm
except ModuleNotFoundError as error:
    raise ImportError(f"mlla_seg.plugins.timm needs {error.name}: pip install 'mlla_seg[timm]'") from error

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import Format, create_classifier
from timm.models import (
    FeatureInfo,
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
    register_notrace_function,
    register_notrace_module,
)
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from mlla_seg.models.depthwise2d import Depthwise2d
from mlla_seg.models.mixers import LinearAttention, rope_for
from mlla_seg.models.mlla import SIZES, MLLAEncoder, init_weights
from mlla_seg.models.ops import drop_path, to_channels_first, to_channels_last
from mlla_seg.models.recompute import set_checkpointing
from mlla_seg.plugins.dense import DenseEncoder
from mlla_seg.plugins.names import accept_other_names, translated

__all__: list[str] = []  # timm adds the model names

# Leaf nodes for torch.fx, because they depend on sizes, precision or random numbers at run time.
register_notrace_module(LinearAttention)
register_notrace_module(Depthwise2d)
register_notrace_function(rope_for)
register_notrace_function(drop_path)


class MLLAClassifier(nn.Module):
    """:class:`mlla_seg.MLLA` with timm's model interface and the same parameter names.

    Args:
        embed_dim: Channels at stride 4; see :class:`~mlla_seg.models.mlla.MLLAEncoder`.
        depths: Blocks of the four stages.
        num_heads: Attention heads of the four stages.
        num_classes: Number of classes; 0 for no head.
        in_chans: Channels of the image.
        global_pool: timm's name of the pooling before the head; ``""`` for none.
        mlp_ratio: Ratio of MLP hidden width to input width.
        drop_rate: Dropout rate before the head.
        drop_path_rate: Stochastic-depth rate.
        output_stride: Stride of the coarsest feature map: 32, or 16 or 8 by dilation.
        norm_outputs: Apply a LayerNorm to each feature map; ``create_model`` does so with ``features_only``.
    """

    def __init__(
        self,
        embed_dim: int = 64,
        depths: Sequence[int] = (2, 4, 8, 4),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        output_stride: int = 32,
        norm_outputs: bool = False,
    ) -> None:
        super().__init__()
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        build = DenseEncoder if norm_outputs else MLLAEncoder
        self.encoder = build(
            in_chans, embed_dim, depths, num_heads, mlp_ratio, drop_path_rate, output_stride=output_stride
        )
        self.num_features = self.encoder.out_channels[-1]
        # Modules whose outputs are the feature maps, for hooks and fx.
        modules = ["encoder.stem.residual", *(f"encoder.norms.{i}" for i in range(len(depths)))]
        self.feature_info = [
            dict(num_chs=channels, reduction=min(2 ** (i + 1), output_stride), module=module)
            for i, (channels, module) in enumerate(zip(self.encoder.out_channels, modules, strict=True))
        ]
        self.norm: nn.Module = nn.LayerNorm(self.num_features)
        self.reset_classifier(num_classes, global_pool)
        accept_other_names(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map, normalised: ``(B, C, H, W)`` to ``(B, 8 E, H / 32, W / 32)``."""
        x = self.encoder(x)[-1]
        return to_channels_first(self.norm(to_channels_last(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits ``(B, num_classes)`` of the result of :meth:`forward_features`, or the input of the head."""
        x = self.head_drop(self.global_pool(x))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    @torch.jit.ignore
    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the final features and the feature maps at strides 2 to 32, finest first.

        Args:
            x: Images ``(B, C, H, W)``.
            indices: Feature maps to return: a list of indices, the number of last ones, or ``None`` for all.
            norm: Normalise the last stage's feature map.
            stop_early: Skip stages after the last requested feature map.
            output_fmt: Must be ``NCHW``.
            intermediates_only: Return only the feature maps.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"MLLA returns feature maps only as NCHW, got {output_fmt}.")
        take, last = feature_take_indices(len(self.feature_info), indices)
        maps = self.encoder(x, last + 1 if stop_early else len(self.feature_info))
        x = maps[-1]
        if len(maps) == len(self.feature_info):
            x = to_channels_first(self.norm(to_channels_last(x)))
        wanted = [x if norm and i == len(self.feature_info) - 1 else maps[i] for i in sorted(take)]
        return wanted if intermediates_only else (x, wanted)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove everything after the last feature map of ``indices``; return the indices as non-negative numbers."""
        take, last = feature_take_indices(len(self.feature_info), indices)
        shortened = last < len(self.feature_info) - 1
        if shortened:
            encoder = self.encoder
            encoder.stages, encoder.downsamples = encoder.stages[:last], encoder.downsamples[:last]
            encoder.norms, encoder.out_channels = encoder.norms[:last], encoder.out_channels[: last + 1]
            if last == 0:
                encoder.stem.conv4, encoder.stem.conv5 = nn.Identity(), nn.Identity()
            self.feature_info = self.feature_info[: last + 1]
            self.num_features = encoder.out_channels[-1]
        if prune_norm or shortened:
            self.norm = nn.Identity()
        if prune_head or shortened:
            self.reset_classifier(0, "")
        return take

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """Return the linear head."""
        return self.head

    @torch.jit.ignore
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head; 0 classes remove it, and the pooling is kept unless given."""
        self.num_classes = num_classes
        if global_pool is not None:
            self.pool_type = global_pool
        reference = next(self.encoder.parameters())
        self.global_pool, self.head_drop, self.head = create_classifier(
            self.num_features, num_classes, self.pool_type, drop_rate=self.drop_rate
        )
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()  # catavgmax doubles it
        init_weights(self.head)
        self.head.to(reference.device, reference.dtype)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass instead of storing their activations."""
        set_checkpointing(self.encoder, "blocks" if enable else "none")

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Return parameters exempt from weight decay, besides the biases and norms that timm exempts itself."""
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns that group parameters by depth, for layer-wise learning-rate decay."""
        stages = r"^encoder\.(?:stages|downsamples)\.(\d+)"
        blocks = [
            (r"^encoder\.downsamples\.(\d+)", (0,)),
            (r"^encoder\.stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^norm", (99999,)),
        ]
        return {"stem": r"^encoder\.stem", "blocks": stages if coarse else blocks}


class FeatureMaps(nn.Module):
    """Model for ``features_only=True``: ``(B, C, H, W)`` to the selected feature maps, without any later stages."""

    def __init__(self, model: MLLAClassifier, out_indices: list[int]) -> None:
        super().__init__()
        self.out_indices = model.prune_intermediate_layers(out_indices)
        self.feature_info = FeatureInfo(model.feature_info, tuple(self.out_indices))
        self.output_fmt = Format.NCHW
        self.encoder = model.encoder
        for i in range(len(self.encoder.norms)):
            if i + 1 not in self.out_indices:
                self.encoder.norms[i] = nn.Identity()  # DDP fails on parameters without a gradient
        accept_other_names(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.encoder(x)
        return [maps[i] for i in self.out_indices]

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass instead of storing their activations."""
        set_checkpointing(self.encoder, "blocks" if enable else "none")


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename the authors' weights, or those of any network with an MLLA encoder, to the names used here."""
    return translated(state_dict, model.state_dict())[0]


def _cfg() -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "encoder.stem.conv1.0",
        "classifier": "head",
    }


default_cfgs = generate_default_cfgs({name: _cfg() for name in SIZES})


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    def create(
        pretrained: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> nn.Module:
        with nullcontext() if device is None else torch.device(device):
            model = build_model_with_cfg(
                MLLAClassifier,
                name,
                pretrained,
                pretrained_filter_fn=checkpoint_filter_fn,
                feature_cfg={"out_indices": (0, 1, 2, 3, 4), "feature_cls": FeatureMaps},
                **{**SIZES[name], "norm_outputs": kwargs.get("features_only", False), **kwargs},
            )
        return model.to(dtype=dtype)

    create.__name__ = create.__qualname__ = name
    return create


for _name in SIZES:
    if not timm.models.is_model(_name):  # this module may be reloaded
        globals()[_name] = register_model(_entrypoint(_name))
