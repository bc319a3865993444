"""What all plug-ins hand to other libraries' decoders: an MLLA encoder with a LayerNorm on each map."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mlla_seg.models.mlla import MLLAEncoder
from mlla_seg.models.weights import FIRST_PARAMETER
from mlla_seg.progress import note


class DenseEncoder(MLLAEncoder):
    """The authors' backbone for dense prediction; the map at stride 2, which theirs does not give, has no norm.

    Networks that were saved with version 0.1 had none of these norms: loading one takes them off, so that it computes
    what it did. Weights of a classifier come through ``load_pretrained``, which leaves them in place.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "norm_outputs": True})

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        has_norms = any(name.startswith(f"{prefix}norms.") for name in state_dict)
        if len(self.norms) and not has_norms and f"{prefix}{FIRST_PARAMETER}" in state_dict:
            self.norms = nn.ModuleList(nn.Identity() for _ in self.norms)
            note("note: these weights are of version 0.1, without a LayerNorm on each map: it is taken off here too.")
        super()._load_from_state_dict(state_dict, prefix, *args)
