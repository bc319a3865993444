"""Loggers and callbacks that cannot be made are said in a line that names the option and what it takes."""

from __future__ import annotations

import pytest

from conftest import ROOT


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("callbacks", "EarlyStopping", "EarlyStopping needs monitor."),
        ("callbacks", "EarlyStoppingg", "Unknown class 'EarlyStoppingg'. Did you mean EarlyStopping?"),
        ("callbacks", "os.path", "the class that it names is not a Callback."),
        ("callbacks", "mine.Callback", "mine.Callback cannot be imported: No module named 'mine'."),
        (
            "callbacks",
            "[{class_path: EarlyStopping, init_args: {monitor: val/dice, patienze: 3}}]",
            "Unknown option of EarlyStopping 'patienze'. Did you mean patience? Known: monitor, ",
        ),
        (
            "callbacks",
            "[{class_path: EarlyStopping, init_args: {monitor: val/dice, patience: x}}]",
            "EarlyStopping: patience: Expected a <class 'int'>. Got value: x",
        ),
        ("logger", "[CSVLogger, nope]", "Unknown class 'nope'. Known: "),
        ("logger", "lightning.pytorch.loggers.Nope", "has no attribute 'Nope'"),
    ],
)
def test_a_class_that_the_parser_refuses(option, value, said, cli, capsys):
    with pytest.raises(SystemExit):
        cli("fit", "--config", ROOT / "configs/demo.yaml", f"--trainer.{option}={value}")
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: --trainer.{option}: ")
    assert said in error


def test_a_class_that_refuses_its_options(cli, capsys, phantom_root):
    stopping = "[{class_path: EarlyStopping, init_args: {monitor: val/dice, mode: highest}}]"
    options = [f"--data.root={phantom_root}", f"--trainer.callbacks={stopping}"]
    with pytest.raises(SystemExit):
        cli("fit", "--config", ROOT / "configs/demo.yaml", *options)
    assert "error: EarlyStopping: `mode` can be min, max, got highest\n" in capsys.readouterr().err
