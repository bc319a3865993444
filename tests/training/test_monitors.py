"""A callback that monitors what is not logged, or in the wrong direction, is refused before training."""

from __future__ import annotations

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from mlla_seg.data.dataspec import DataSpec
from mlla_seg.errors import InputError
from mlla_seg.training.checkpoints import BestCheckpoint, LastCheckpoint
from mlla_seg.training.monitors import logged_names, require_monitored, require_other_checkpoints

SPEC = DataSpec.from_dict(
    {"channels": ["red"], "classes": ["background", "roof"], "normalisation": {"mean": 0, "std": 1}}
)
NAMES = logged_names(SPEC, validated=True)


class Mine(Callback):
    """May log more."""


def test_names_are_those_of_scores_and_loss():
    assert {"val/dice", "val/iou", "val/dice_roof", "train/loss", "val/pooled_iou"} <= set(NAMES)
    assert logged_names(SPEC, validated=False) == ["train/loss"]


def test_what_is_not_logged_is_refused_with_the_names_that_are():
    wrong = EarlyStopping("val/dicee", mode="max")
    with pytest.raises(InputError, match=r"Unknown monitor of EarlyStopping 'val/dicee'\. Did you mean val/dice"):
        require_monitored([wrong], NAMES)
    require_monitored([wrong, Mine()], NAMES)  # Lightning says so after the first validation
    require_monitored([EarlyStopping("val/dice_roof", mode="max"), ModelCheckpoint(monitor="lr-AdamW")], NAMES)


@pytest.mark.parametrize(("monitor", "mode", "better"), [("val/dice", "min", "max"), ("train/loss", "max", "min")])
def test_the_wrong_direction_is_refused(monitor, mode, better):
    for callback in (EarlyStopping(monitor, mode=mode), ModelCheckpoint(monitor=monitor, mode=mode)):
        with pytest.raises(InputError, match=f"with mode {mode}, but .* is better. Set its mode to {better}"):
            require_monitored([callback, Mine()], NAMES)


@pytest.mark.parametrize(("options", "name"), [({"monitor": "val/dice", "mode": "max"}, "best"), ({}, "last")])
def test_checkpoints_that_are_kept_anyway_are_refused(options, name):
    ours = [BestCheckpoint(), LastCheckpoint(10, True)]
    with pytest.raises(InputError, match=rf"keeps what {name}\.ckpt holds"):
        require_other_checkpoints([ModelCheckpoint(**options)], ours)
    require_other_checkpoints([ModelCheckpoint(monitor="val/iou", mode="max"), Mine()], ours)
