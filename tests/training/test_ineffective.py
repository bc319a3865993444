"""What a run says of options that change nothing."""

from __future__ import annotations

import json

import pytest

from conftest import ROOT, TINY

FIT = ("fit", "--config", ROOT / "configs/demo.yaml", *TINY, "--trainer.max_steps=1", "--trainer.limit_val_batches=1")


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        (
            {"model.consistency": 0.5, "model.norm_outputs": False, "data.folds": 3}
            | {"model.freeze": "encoder", "model.encoder_lr_factor": 0.1},
            [
                "--model.consistency has no effect without --data.unlabelled",
                "--model.norm_outputs has no effect: it is for MLLA encoders with decoders of smp",
                "--data.folds has no effect without --data.fold",
                "--model.encoder_lr_factor has no effect, as the encoder is frozen",
            ],
        ),
        (
            {"model.decoder": "unet", "model.norm_outputs": False, "data.fold": 0, "data.folds": 3}
            | {"model.freeze": "encoder", "model.freeze_steps": 1, "model.encoder_lr_factor": 0.1}
            | {"model.decoder_depths": None},
            [],
        ),
    ],
)
def test_options_without_an_effect_are_noted(cli, phantom_root, capsys, options, lines):
    given = [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items()]
    cli(*FIT, "--data.root", phantom_root, *given)
    said = capsys.readouterr()
    notes = [line for line in (said.out + said.err).splitlines() if "no effect" in line]
    assert len(notes) == len(lines)
    assert all(any(line in note for note in notes) for line in lines)
