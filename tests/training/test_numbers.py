"""Options of training that make no sense are refused before the first step, by their name."""

from __future__ import annotations

import math

import pytest
from lightning.pytorch.cli import LightningArgumentParser

from conftest import ROOT
from mlla_seg.errors import InputError
from mlla_seg.training.losses import SegmentationLoss
from mlla_seg.training.module import SegmentationModule
from mlla_seg.training.run_cli import keep_whole_numbers

SPEC = {"channels": ["a"], "classes": ["b", "c"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, r"--model\.lr must be 0 or more, got -1\.0"),
        ({"lr": math.nan}, r"--model\.lr must be 0 or more, got nan"),
        ({"weight_decay": -0.1}, r"--model\.weight_decay must be 0 or more"),
        ({"encoder_lr_factor": -1.0}, r"--model\.encoder_lr_factor must be 0 or more"),
        ({"warmup": 2.0}, r"--model\.warmup must be a fraction from 0 to 1, got 2\.0"),
        ({"warmup": -1.0}, r"--model\.warmup must be a fraction"),
        ({"consistency": -1.0}, r"--model\.consistency must be 0 or more"),
        ({"consistency_rampup": 1.5}, r"--model\.consistency_rampup must be a fraction"),
        ({"eval_batch_size": 0}, r"--model\.eval_batch_size must be a whole number from 1, got 0"),
        ({"ce_weight": -1.0}, r"--model\.ce_weight must be 0 or more"),
        ({"ce_weight": 0.0, "dice_weight": 0.0}, r"are both 0, so there is no loss"),
        ({"class_weights": [-1.0, 1.0]}, r"--model\.class_weights must be 0 or more, and one above 0, got \[-1\.0"),
        ({"class_weights": [0.0, 0.0]}, r"--model\.class_weights"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate is 1\.0, expected a number from 0 to below 1"),
        ({"decoder_depths": [1, 1]}, r"decoder_depths is \[1, 1\], expected three whole numbers"),
    ],
)
def test_impossible_numbers_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        SegmentationModule("mlla_test", spec=SPEC, **options)


def test_numbers_at_the_limits_are_possible():
    limits = {"lr": 0.0, "weight_decay": 0, "warmup": 1, "consistency_rampup": 0, "eval_batch_size": 1}
    SegmentationModule("mlla_test", spec=SPEC, class_weights=[0.0, 1.0], ce_weight=0, **limits)


def test_a_loss_alone_is_checked_too():
    with pytest.raises(InputError, match="no loss to learn from"):
        SegmentationLoss(0, 0)


def test_one_batch_is_not_read_as_all_batches(cli, capsys):
    parser = LightningArgumentParser()
    parser.add_argument("--limit", type=float | int | None)
    assert isinstance(parser.parse_args(["--limit=1"]).limit, float), "the parser has no such fault any more"
    keep_whole_numbers(parser)
    for text, value in {"1": 1, "1.0": 1.0, "0.5": 0.5, "null": None}.items():
        limit = parser.parse_args([f"--limit={text}"]).limit
        assert limit == value and type(limit) is type(value)
    with pytest.raises(SystemExit):
        cli("fit", "--config", ROOT / "configs/demo.yaml", "--trainer.limit_val_batches=1", "--print_config")
    assert "limit_val_batches: 1\n" in capsys.readouterr().out
