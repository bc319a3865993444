"""Checkpoints are scored only with their training options; the error names the option that differs."""

from __future__ import annotations

import pytest

from mlla_seg.data.dataspec import DataSpec
from mlla_seg.errors import InputError
from mlla_seg.training.resume import require_same_view

VIEW = {
    "channels": ["red", "green"],
    "classes": ["background", "roof"],
    "plane": "axial",
    "context": 0,
    "resize": None,
    "patch_size": [96, 64],
    "spacing_mm": None,
    "array_units": None,
    "normalisation": {"mean": 1.0, "std": 2.0},
}


@pytest.mark.parametrize(
    ("key", "other", "advice"),
    [
        ("channels", ["red"], """set --data.channels '["red", "green"]'"""),
        ("plane", "acquired", "set --data.plane axial"),
        ("context", 1, "set --data.context 0"),
        ("resize", 2.0, "set --data.resize null"),
        ("patch_size", [64, 64], "set --data.crop '[96, 64]'"),
        ("spacing_mm", [None, 0.6, 0.6], "set --data.spacing_mm '[null, null, null]'"),
        ("array_units", {"scale": 2, "offset": 0}, "use the card of its training"),
        ("normalisation", {"per_case": True}, "use the card of its training"),
        ("normalisation", {"mean": 1.0, "std": 2.0, "window": [0.0, 9.0]}, "use the card of its training"),
    ],
)
def test_another_view_is_refused_with_the_option_that_restores_it(key, other, advice):
    require_same_view("a.ckpt", VIEW, DataSpec.from_dict(VIEW))
    with pytest.raises(InputError) as refusal:
        require_same_view("a.ckpt", VIEW, DataSpec.from_dict({**VIEW, key: other}))
    who = "but the card gives" if key == "normalisation" else "but the options and the card give"
    expected = f"a.ckpt: was trained with {key} {VIEW[key]}, {who} {other}."
    assert str(refusal.value) == f"{expected} To score it, {advice}."


def test_numbers_of_a_normalisation_come_with_the_weights():
    require_same_view("a.ckpt", VIEW, DataSpec.from_dict({**VIEW, "normalisation": {"mean": 5.0, "std": 6.0}}))


def test_the_same_view_as_version_0_1_said_it_is_taken():
    old = {key: value for key, value in VIEW.items() if key != "patch_size"} | {"window": [96, 64]}
    require_same_view("a.ckpt", old, DataSpec.from_dict(VIEW))
    with pytest.raises(InputError, match=r"was trained with patch_size \[96, 64\], .* set --data\.crop '\[96, 64\]'"):
        require_same_view("a.ckpt", old, DataSpec.from_dict({**VIEW, "patch_size": [64, 64]}))
