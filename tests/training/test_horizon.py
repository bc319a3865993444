"""Learning-rate schedules in real runs: by steps, by time, resumed, accumulated, and in two processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from conftest import ROOT, TINY
from forks import run_apart
from mlla_seg.training.optim import learning_rate_factor

RECORD = "--trainer.callbacks=[{class_path: recorder.Recorder}]"
AVERAGED = "--trainer.callbacks=[{class_path: mlla_seg.training.ema.WarmEMA},{class_path: recorder.Recorder}]"
LAST = "runs/demo/version_0/checkpoints/last.ckpt"


@pytest.fixture
def options(phantom_root):
    """Options with five batches per epoch."""
    options = ["--config", ROOT / "configs/demo.yaml", f"--data.root={phantom_root}", "--data.crop=[32,32]", *TINY]
    return [*options, "--data.seed=1", "--trainer.limit_val_batches=1", "--trainer.log_every_n_steps=1"]


def recorded(name="lr", rank=0, group=0, folder=Path()):
    return [step[name][group] for step in json.loads((folder / f"steps.{rank}.json").read_text())]


def expected(lr, steps, total, warmup=0.05, schedule="cosine"):
    """Learning rate at each of ``steps``, in a run of ``total`` steps."""
    return [lr * learning_rate_factor(step, total, round(warmup * total), schedule) for step in steps]


def test_rates_follow_the_schedule_step_by_step(cli, options):
    course = ["--model.lr=0.01", "--model.schedule=poly", "--model.warmup=0.3", RECORD]
    cli("fit", *options, *course, "--trainer.max_epochs=2")
    assert recorded() == pytest.approx(expected(0.01, range(10), 10, 0.3, "poly"))
    assert recorded()[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])  # three steps of warm-up


def test_rates_follow_steps_of_the_optimiser_and_not_batches(cli, options):
    few = ["--trainer.accumulate_grad_batches=2", "--trainer.limit_train_batches=3", "--trainer.max_epochs=3"]
    cli("fit", *options, *few, "--model.warmup=0.34", RECORD)
    assert recorded() == pytest.approx(expected(3e-3, range(6), 6, 0.34))
    assert torch.load(LAST, weights_only=True)["global_step"] == 6


def test_steps_alone_may_end_it(cli, options):
    cli("fit", *options, "--trainer.max_epochs=-1", "--trainer.max_steps=7", RECORD)
    assert recorded() == pytest.approx(expected(3e-3, range(7), 7))
    assert torch.load(LAST, weights_only=True)["global_step"] == 7


def test_the_last_weights_are_validated_where_steps_end_in_the_middle_of_an_epoch(cli, options):
    cli("fit", *options, "--trainer.max_epochs=-1", "--trainer.max_steps=3", RECORD)
    assert len(recorded()) == 3
    for name in ("best", "last"):
        assert torch.load(Path(LAST).with_name(f"{name}.ckpt"), weights_only=True)["global_step"] == 3


def test_epochs_without_validation_are_the_last_too(cli, options):
    cli("fit", *options, "--trainer.max_epochs=3", "--trainer.check_val_every_n_epoch=2")
    steps = [
        torch.load(Path(LAST).with_name(f"{name}.ckpt"), weights_only=True)["global_step"] for name in ("best", "last")
    ]
    assert steps == [10, 15]


def test_something_must_end_it(cli, capsys, options):
    with pytest.raises(SystemExit):
        cli("fit", *options, "--trainer.max_epochs=-1")
    assert "set --trainer.max_epochs, --trainer.max_steps or --trainer.max_time" in capsys.readouterr().err


def test_resumed_rates_go_on_as_if_never_interrupted(cli, capsys, options):
    cli("fit", *options, "--trainer.max_epochs=1", RECORD)
    cli("fit", *options, "--trainer.max_epochs=3", RECORD, "--ckpt_path=last")
    assert recorded() == pytest.approx(expected(3e-3, range(5, 15), 15))
    assert "note: resumed with max_epochs 3 instead of 1\n" in capsys.readouterr().err


def test_resumed_rates_end_with_the_steps_that_are_given(cli, options):
    limited = ["--trainer.max_epochs=3", "--trainer.max_steps=8"]
    cli("fit", *options, *limited, RECORD)
    assert recorded() == pytest.approx(expected(3e-3, range(8), 8))
    stopped = Path(LAST).read_bytes()
    cli("fit", *options, "--trainer.max_epochs=4", "--trainer.max_steps=11", RECORD, "--ckpt_path=last")
    assert recorded() == pytest.approx(expected(3e-3, range(8, 11), 11))
    Path(LAST).write_bytes(stopped)
    cli("fit", *options, "--trainer.max_epochs=3", "--trainer.max_steps=20", RECORD, "--ckpt_path=last")
    assert recorded() == pytest.approx(expected(3e-3, range(8, 13), 13))  # the epoch that was cut counts as one
    Path(LAST).write_bytes(stopped)
    cli("fit", *options, "--trainer.max_epochs=4", RECORD, "--ckpt_path=last")
    assert recorded() == pytest.approx(expected(3e-3, range(8, 18), 18))  # two whole ones


def test_resumed_in_the_middle_of_an_epoch_the_rest_of_it_counts(cli, options):
    half = ["--trainer.val_check_interval=2", "--trainer.max_epochs=2"]
    cli("fit", *options, *half, "--trainer.limit_train_batches=4", RECORD)
    whole = recorded()
    middle = Path("runs/demo/version_0/checkpoints/best.ckpt")
    step = torch.load(middle, weights_only=True)["global_step"]
    cli("fit", *options, *half, "--trainer.limit_train_batches=4", RECORD, f"--ckpt_path={middle}")
    assert recorded() == pytest.approx(whole[step:])


def test_resumed_runs_use_the_new_rate_decay_and_schedule(cli, capsys, options):
    cli("fit", *options, "--trainer.max_epochs=1", RECORD)
    new = ["--model.lr=0.5e-3", "--model.weight_decay=0.2", "--model.schedule=poly", "--model.warmup=0.4"]
    new += ["--model.encoder_lr_factor=0.1", "--trainer.max_epochs=2", "--data.intensity=0.25"]
    cli("fit", *options, *new, RECORD, "--ckpt_path=last")
    rates = expected(0.5e-3, range(5, 10), 10, 0.4, "poly")
    for group, (factor, decay) in enumerate([(0.1, 0.2), (1, 0.2), (0.1, 0), (1, 0)]):  # two groups before
        assert recorded(group=group) == pytest.approx([factor * rate for rate in rates])
        assert set(recorded("weight_decay", group=group)) == {decay}
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("note: resumed")]
    for part in (
        "lr 0.0005 instead of 0.003",
        "encoder_lr_factor 0.1 instead of 1.0",
        "weight_decay 0.2 instead of 0.05",
        "schedule poly instead of cosine",
        "warmup 0.4 instead of 0.05",
        "intensity 0.25 instead of 0.5",
        "max_epochs 2 instead of 1",
    ):
        assert part in line
    assert line.count("instead of") == 7
    cli("fit", *options, "--trainer.max_epochs=3", RECORD, "--ckpt_path=last")  # and back to two groups
    assert recorded() == pytest.approx(expected(3e-3, range(10, 15), 15))
    state = torch.load(LAST, weights_only=True)["optimizer_states"][0]
    assert len(state["param_groups"]) == 2
    names = [name for name, _ in sorted(_decayed(LAST), key=lambda pair: pair[1])]
    weights = torch.load(LAST, weights_only=True)["state_dict"]
    for index, name in enumerate(names):  # each parameter still has its own moments
        assert state["state"][index]["exp_avg"].shape == weights[f"network.{name}"].shape


def _decayed(path):
    from mlla_seg.models.checkpoint import load_segmenter

    parameters = [(name, p) for name, p in load_segmenter(path).named_parameters() if p.ndim > 1]
    return [(name, place) for place, (name, _) in enumerate(parameters)]


def test_resumed_with_other_batches_the_rate_still_falls_to_its_end(cli, options):
    cli("fit", *options, "--trainer.max_epochs=1", RECORD)
    cli("fit", *options, "--data.batch_size=20", "--trainer.max_epochs=4", RECORD, "--ckpt_path=last")
    assert recorded() == pytest.approx(expected(3e-3, range(5, 11), 11))  # 5 steps before, two in each of 3 epochs


def test_a_run_limited_by_time_ends_annealed_and_keeps_its_last_weights(cli, capsys, options):
    timed = ["--trainer.max_epochs=-1", "--trainer.max_time=00:00:00:05", "--model.warmup=0.2", AVERAGED]
    cli("fit", *options, *timed)
    rates = recorded()
    saved = torch.load(LAST, weights_only=True)
    assert saved["global_step"] == len(rates) > 5
    assert rates[0] < 1e-3 < max(rates)
    assert rates[-1] < 0.1 * max(rates)
    assert rates == sorted(rates[: rates.index(max(rates))]) + sorted(rates[rates.index(max(rates)) :], reverse=True)
    from recorder import Recorder

    averaged = Recorder.module.network.state_dict()  # what the run ended with
    for name, value in averaged.items():
        torch.testing.assert_close(saved["state_dict"][f"network.{name}"], value)
    assert not torch.equal(saved["current_model_state"]["network.head.weight"], averaged["head.weight"])
    cli("fit", *options, *timed, "--trainer.max_time=00:00:00:10", "--ckpt_path=last")
    again, elapsed = recorded(), saved["callbacks"]["Timer"]["time_elapsed"]["train"]
    assert elapsed >= 5
    assert again[0] <= 3e-3 * learning_rate_factor(elapsed, 10, 2)  # no second warm-up
    assert again == sorted(again, reverse=True)
    assert again[-1] < 0.3 * again[0]
    assert "max_time 00:00:00:10 instead of 00:00:00:05" in capsys.readouterr().err


def test_of_time_and_steps_what_is_further_on_counts(phantom_root, tmp_path):
    from lightning.pytorch import Trainer

    from mlla_seg import SegmentationDataModule, SegmentationModule

    data = SegmentationDataModule(
        "phantom", str(phantom_root), 8, crop=[32, 32], num_workers=0, cache_dir=str(tmp_path / "cache")
    )
    module = SegmentationModule("mlla_test", spec=data.spec, warmup=0.0)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(accelerator="cpu", max_steps=4, max_time="01:00:00:00", limit_val_batches=0, **quiet)
    trainer.fit(module, data)
    assert module.total_steps == 4
    assert 0 < module.time_used < 0.01  # of a day
    assert module.rate(2) == pytest.approx(0.5)
    module.time_used = 0.75
    assert module.rate(2) == pytest.approx(learning_rate_factor(3, 4, 0))
    assert module.rate(4) == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
def test_two_processes_take_the_same_rates(phantom_root, tmp_path, options):
    command = ["fit", *options, RECORD, "--trainer.max_epochs=2"]
    command += ["--trainer.devices=2", "--trainer.strategy=ddp", "--model.warmup=0.3", "--trainer.max_time=00:00:30:00"]
    result = run_apart(*command, ranks=2, folder=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert recorded(rank=0, folder=tmp_path) == recorded(rank=1, folder=tmp_path)
    assert recorded(folder=tmp_path) == pytest.approx(expected(3e-3, range(10), 10, 0.3), rel=0.01)  # of half an hour
