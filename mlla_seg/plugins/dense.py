"""MLLA encoder with a LayerNorm on each feature map, as the plug-ins provide it to other libraries' decoders."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mlla_seg.models.mlla import MLLAEncoder
from mlla_seg.models.weights import FIRST_PARAMETER
from mlla_seg.progress import note


class DenseEncoder(MLLAEncoder):
    """The authors' dense-prediction backbone, plus a feature map at stride 2 without a norm.

    Networks saved with version 0.1 had no norms, so loading one removes them here and keeps its outputs unchanged.
    Weights of a classifier are loaded with ``load_pretrained``, which keeps the norms.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "norm_outputs": True})

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        has_norms = any(name.startswith(f"{prefix}norms.") for name in state_dict)
        if len(self.norms) and not has_norms and f"{prefix}{FIRST_PARAMETER}" in state_dict:
            self.norms = nn.ModuleList(nn.Identity() for _ in self.norms)
            note("note: these weights are from version 0.1, without a LayerNorm on each feature map; it is removed.")
        super()._load_from_state_dict(state_dict, prefix, *args)
