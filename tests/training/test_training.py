"""The training command line: overrides, resuming, scoring, and one-line errors."""

from __future__ import annotations

import csv
import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import LightningModule, Trainer

import layouts
from conftest import ROOT, TINY
from mlla_seg import Predictor
from mlla_seg.data.formats.registry import read_image, read_mask
from mlla_seg.evaluation.overlap import case_confusion, counts_of, dice_score
from mlla_seg.training.ema import WarmEMA

CONFIG = ROOT / "configs/demo.yaml"


@pytest.fixture
def options(phantom_root):
    return ["--config", CONFIG, f"--data.root={phantom_root}", "--data.crop=[32,32]", *TINY]


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def refused(capsys, cli, *arguments):
    with pytest.raises(SystemExit) as stop:
        cli(*arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error[error.index("error: ") :]


def test_training_leaves_everything_a_user_looks_for(trained):
    run = trained / "runs/demo/version_0"
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (run / "training.png").read_bytes().startswith(b"\x89PNG")
    rows = read_csv(run / "metrics.csv")
    assert [row["epoch"] for row in rows if row["train/loss"]] == ["0", "1"]
    assert len([row for row in rows if row["val/dice"]]) == 2
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["encoder"] == "mlla_test"


def test_command_line_overrides_the_config(cli, capsys, options):
    with pytest.raises(SystemExit) as stop:
        cli("fit", *options, "--model.lr=0.25", "--trainer.devices=2", "--print_config")
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["lr"] == 0.25
    assert str(printed["trainer"]["devices"]) == "2"
    assert printed["data"]["card"] == "phantom"
    assert "spec" not in printed["model"]


def test_command_line_overrides_the_checkpoint_too(cli, options, checkpoint):
    cli("fit", *options, "--ckpt_path", checkpoint, "--trainer.max_epochs=3", "--model.lr=0.125")
    saved = torch.load("runs/demo/version_0/checkpoints/last.ckpt", weights_only=True)
    assert saved["hyper_parameters"]["lr"] == 0.125


def test_resuming_gives_what_an_uninterrupted_run_gives(cli, options):
    plain = [*options, "--data.augment=none", "--data.intensity=0", "--trainer.limit_train_batches=2"]
    plain.append("--model.schedule=constant")
    cli("fit", *plain, "--trainer.max_epochs=2", "--trainer.logger.init_args.name=whole")
    cli("fit", *plain, "--trainer.max_epochs=1", "--trainer.logger.init_args.name=parts")
    cli("fit", *plain, "--trainer.max_epochs=2", "--trainer.logger.init_args.name=parts", "--ckpt_path=last")
    whole = torch.load("runs/whole/version_0/checkpoints/last.ckpt", weights_only=True)
    parts = torch.load("runs/parts/version_0/checkpoints/last.ckpt", weights_only=True)
    assert not Path("runs/parts/version_1/checkpoints").exists()
    assert parts["global_step"] == whole["global_step"] == 4
    torch.testing.assert_close(parts["state_dict"], whole["state_dict"], atol=1e-5, rtol=1e-4)


def test_scores_are_those_of_the_files_that_predict_writes(cli, capsys, options, checkpoint, phantom_root, tmp_path):
    cli("test", *options, "--ckpt_path", checkpoint)
    output = capsys.readouterr().out
    run = Path("runs/demo/version_0")
    table = {(row["case"], row["class"]): row for row in read_csv(run / "per_case.csv")}
    assert len(table) == 4 * 9
    cli("predict", "--ckpt_path", checkpoint, "--input", phantom_root / "test_vol_h5", "--output", tmp_path / "masks")
    scores = []
    for case in ("case0013", "case0014", "case0015", "case0016"):
        truth = read_mask(phantom_root / f"test_vol_h5/{case}.npy.h5").array
        predicted = read_mask(tmp_path / f"masks/{case}.npy.h5").array
        counts = counts_of(
            case_confusion(torch.from_numpy(predicted.astype(int)), torch.from_numpy(truth.astype(int)), 9)
        )
        assert counts[:, 0].tolist() == [int(table[case, name]["tp"]) for name in class_names(checkpoint)]
        scores.append(dice_score(counts)[1:].nan_to_num(float("nan")))
    mean = torch.stack(scores).nanmean(0).nanmean().item()
    assert json.loads((run / "summary.json").read_text())["test/dice"] == pytest.approx(mean, abs=1e-6)
    assert re.search(rf"mean +{mean:.4f}", output)


def class_names(checkpoint):
    return Predictor.from_checkpoint(checkpoint).spec.class_names


@pytest.mark.parametrize("batch_size", [1, 3])
def test_scores_do_not_depend_on_the_batch_size(cli, options, checkpoint, batch_size):
    results = []
    for size in (16, batch_size):
        cli("validate", *options, "--ckpt_path", checkpoint, f"--model.eval_batch_size={size}")
    for version in (0, 1):
        rows = read_csv(Path(f"runs/demo/version_{version}/metrics.csv"))
        results.append({key: value for key, value in rows[-1].items() if key.startswith("val/")})
    assert results[0] == results[1]


def test_averaged_weights_are_validated_saved_and_predicted_with(cli, options):
    ema = "--trainer.callbacks=[{class_path: mlla_seg.training.ema.WarmEMA, init_args: {decay: 0.5}}]"
    cli("fit", *options, ema, "--trainer.max_epochs=1")
    saved = torch.load("runs/demo/version_0/checkpoints/last.ckpt", weights_only=True)
    name = "network.head.weight"
    assert not torch.equal(saved["state_dict"][name], saved["current_model_state"][name])
    predictor = Predictor.from_checkpoint("runs/demo/version_0/checkpoints/last.ckpt")
    torch.testing.assert_close(predictor.network.head.weight, saved["state_dict"][name])
    cli("test", *options, ema, "--ckpt_path=last")
    summary = json.loads(Path("runs/demo/version_1/summary.json").read_text())
    assert np.isfinite(summary["test/dice"])


class Jump(LightningModule):
    """A weight that starts at 0, is 1 from the first step on, and ``last`` after the last one."""

    def __init__(self, steps, last):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.register_buffer("count", torch.tensor(0))
        self.steps, self.last = steps, last

    def training_step(self, batch, index):
        self.count += 1
        target = self.last if index == self.steps - 1 else 1.0
        return 0.5 * (self.weight - target) ** 2

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def averaged(steps, last):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    module = Jump(steps, last)
    trainer = Trainer(accelerator="cpu", max_epochs=1, callbacks=[WarmEMA(0.99)], **quiet)
    trainer.fit(module, torch.utils.data.DataLoader(torch.zeros(steps, 1)))
    return module


def test_average_forgets_the_initial_weights_at_once():
    module = averaged(steps=30, last=1.0)
    assert module.weight > 0.999  # a constant decay of 0.99 would be at 0.26
    assert module.count == 30  # whole numbers are not averaged


def test_average_has_its_final_decay_after_a_while():
    assert averaged(steps=1000, last=2.0).weight.item() == pytest.approx(1.01, abs=1e-4)


def test_scores_need_a_checkpoint(cli, capsys, options):
    for command in ("test", "validate"):
        assert f"{command} needs --ckpt_path" in refused(capsys, cli, command, *options)


def test_places_that_cannot_be_written_are_named(cli, capsys, options, tmp_path):
    (tmp_path / "file").touch()
    message = refused(capsys, cli, "fit", *options, "--data.cache_dir", tmp_path / "file")
    assert str(tmp_path / "file") in message
    assert "Choose another path" in message


def test_without_any_logger_training_runs(cli, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli("fit", *options, "--trainer.logger=false", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2")
    assert len(list(tmp_path.glob("**/last.ckpt"))) == 1


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_a_logger_that_is_not_installed_is_refused_in_a_line(cli, capsys, options):
    message = refused(capsys, cli, "fit", *options, "--trainer.logger=WandbLogger")
    assert message.splitlines()[-1].count("wandb")
    assert "Traceback" not in message


def test_without_a_logger_runs_are_named_after_the_card(cli, options):
    cli("fit", *options, "--trainer.logger=null", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2")
    assert Path("runs/phantom/version_0/checkpoints/last.ckpt").is_file()
    cli("test", *options, "--trainer.logger=null", "--ckpt_path=last")
    assert Path("runs/phantom/version_1/summary.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "decoder"), [("smp/resnet18", "deeplabv3plus"), ("timm/convnext_atto", "unet")])
def test_encoders_of_other_libraries_train_and_predict(cli, capsys, options, encoder, decoder, phantom_root):
    names = [f"--model.encoder={encoder}", f"--model.decoder={decoder}", "--model.decoder_depths=null"]
    cli("fit", *options, *names, "--trainer.max_epochs=1")
    saved = Path("runs/demo/version_0/checkpoints/last.ckpt")
    cli("predict", "--ckpt_path", saved, "--input", phantom_root / "test_vol_h5", "--output", "masks")
    assert len(list(Path("masks").glob("*.h5"))) == 4
    assert "decoder_depths applies to the decoder mlla_unet" in refused(
        capsys, cli, "fit", *options, f"--model.decoder={decoder}"
    )


def test_pretrained_weights_are_reported(cli, capsys, caplog, options, tmp_path):
    from mlla_seg import MLLA
    from mlla_seg.models.mlla import SIZES

    size = {key: SIZES["mlla_test"][key] for key in ("embed_dim", "depths", "num_heads")}
    torch.save({"model": MLLA(**size).state_dict()}, tmp_path / "released.pth")
    with caplog.at_level("INFO"):
        cli("fit", *options, "--model.pretrained=released.pth", "--trainer.max_epochs=1")
    said = capsys.readouterr().err + caplog.text
    assert "adapted: stem" in said or "adapted: decoder" in said


def test_mistakes_are_answered_in_a_line(cli, capsys, options, checkpoint, tmp_path):
    def fit(*extra):
        return refused(capsys, cli, "fit", *options, *extra)

    assert "Did you mean mlla_nano" in fit("--model.encoder=mlla_nan")
    assert "Unknown --model.decoder 'unat'" in fit("--model.decoder=unat")
    assert "Did you mean phantom" in fit("--data.card=fantom")
    assert "Did you mean aerial" in fit("--data.augment=areal")
    assert "fewer than one batch" in fit("--data.batch_size=999")
    assert "1 or more, got 0" in fit("--data.batch_size=0")
    assert "--data.seed must be 0 or more, got -1" in fit("--data.seed=-1")
    assert "--data.crop takes two numbers" in fit("--data.crop=[32]")
    assert "set --data.crop or --data.resize" in fit("--data.crop=null")
    assert "crops must be square" in fit("--data.crop=[32,64]", "--data.augment=aerial")
    assert "--data.context must be 0 or more, got -1" in fit("--data.context=-1")
    assert "class_weights has 2 entries for 9 classes" in fit("--model.class_weights=[1,2]")
    assert "--model.lrr" in fit("--model.lrr=1")
    assert "no such checkpoint" in fit("--ckpt_path=absent.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    assert "not a checkpoint of mlla_seg" in fit("--ckpt_path=other.ckpt")
    assert "--data.root is missing: the folder of the data" in refused(capsys, cli, "fit")
    assert "absent.yaml: no such file" in refused(capsys, cli, "fit", "--config", "absent.yaml")
    assert "Did you mean fit" in refused(capsys, cli, "fitt")


def test_a_checkpoint_of_another_network_is_refused(cli, capsys, options, checkpoint):
    message = refused(capsys, cli, "test", *options, "--ckpt_path", checkpoint, "--model.decoder=unet")
    assert "decoder mlla_unet" in message
    assert "unet" in message


def test_bad_masks_are_refused_before_the_first_step(cli, capsys, options, phantom_root, tmp_path):
    shutil.copytree(phantom_root, tmp_path / "bad")
    path = tmp_path / "bad/train_npz/case0003_slice001.npz"
    with np.load(path) as file:
        image, label = file["image"], file["label"].copy()
    label[0, :5] = 200
    np.savez(path, image=image, label=label)
    message = refused(capsys, cli, "fit", *options, "--data.root", tmp_path / "bad")
    assert "case0003_slice001.npz" in message
    assert "mask value 200 in 5 voxels" in message
    assert "expected 0 to 8" in message
    assert not list(Path("runs").glob("**/*.ckpt"))
    assert read_image(path).array.shape == (1, 1, 32, 32)


def test_network_sees_the_spacing_of_the_card_and_masks_lie_on_the_grid_of_the_image(cli, tmp_path):
    import nibabel as nib

    layouts.write_volumes(tmp_path / "data", {f"im{k}.nii.gz": f"lb{k}.nii.gz" for k in range(5)}, 3, largest=1)
    content = yaml.safe_load((ROOT / "datasets/atlas23/dataset.yaml").read_text())
    content["layout"] |= {"patterns": [r"im(?P<case>\d)\.nii\.gz"], "mask": "lb{case}.nii.gz"}
    content["spacing_mm"] = [2.5, 1.6, 1.6]  # the volumes have 5, 0.8, 0.8
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(content))
    options = ["--data.card=card.yaml", "--data.root=data", "--data.crop=[16,16]", "--data.context=1", *TINY]
    cli("fit", *options, "--trainer.max_epochs=1", "--trainer.limit_train_batches=1")
    checkpoint = "runs/atlas23/version_0/checkpoints/last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["hyper_parameters"]["spec"]["spacing_mm"] == [2.5, 1.6, 1.6]
    cli("test", *options, "--ckpt_path=last")
    rows = read_csv(Path("runs/atlas23/version_1/per_case.csv"))
    assert {row["unit"] for row in rows} == {"mm"}
    case = rows[0]["case"]
    cli("predict", "--ckpt_path", checkpoint, "--input", f"data/im{case}.nii.gz", "--output=masks")
    mask, image = nib.load(f"masks/im{case}.nii.gz"), nib.load(f"data/im{case}.nii.gz")
    assert mask.shape == image.shape == (32, 32, 3)
    np.testing.assert_array_equal(mask.affine, image.affine)
    voxels = np.bincount(np.asarray(mask.dataobj).ravel(), minlength=3)
    assert voxels.tolist() == [int(row["tp"]) + int(row["fp"]) for row in rows[:3]]
    assert float(rows[1]["truth_ml"]) == pytest.approx((int(rows[1]["tp"]) + int(rows[1]["fn"])) * 0.8 * 0.8 * 5 / 1000)


def test_damaged_volumes_are_named_before_the_first_step(cli, capsys, tmp_path):
    names = {f"imagesTr/im{k}.nii.gz": f"labelsTr/lb{k}.nii.gz" for k in range(5)}
    layouts.write_volumes(tmp_path / "data", names, 3)
    truncated, empty = (tmp_path / f"data/imagesTr/im{k}.nii.gz" for k in (0, 3))
    truncated.write_bytes(truncated.read_bytes()[:200])
    empty.write_bytes(b"")
    message = refused(capsys, cli, "fit", "--data.card=atlas23", "--data.root=data", "--data.crop=[16,16]", *TINY)
    assert "2 of 5 cases cannot be used:" in message
    for name in ("im0", "im3"):
        assert re.search(rf"{name}\.nii\.gz: cannot be read as \.nii\.gz .* Copy or download it again", message)
    assert not list(Path("runs").glob("**/*.ckpt"))


def test_volume_of_one_slice_goes_all_the_way(cli, tmp_path):
    import nibabel as nib

    names = {f"imagesTr/im{k}.nii.gz": f"labelsTr/lb{k}.nii.gz" for k in range(5)}
    layouts.write_volumes(tmp_path / "data", names, 3, largest=1)
    for path in (tmp_path / "data").rglob("*.nii.gz"):
        image = nib.load(path)
        nib.Nifti1Image(np.asarray(image.dataobj)[:, :, :1], image.affine).to_filename(path)
    options = ["--data.card=atlas23", "--data.root=data", "--data.crop=[16,16]", "--data.context=1", *TINY]
    options.append("--data.batch_size=2")
    cli("fit", *options, "--trainer.max_epochs=1", "--trainer.limit_train_batches=2")
    cli("test", *options, "--ckpt_path=last", "--evaluation=transunet")
    rows = read_csv(Path("runs/atlas23/version_1/per_case.csv"))
    assert rows[1]["status"] in ("found", "missed")
    assert float(rows[1]["hd95"]) <= np.hypot(32 * 0.8, 32 * 0.8) + 1e-6  # in the plane


def test_the_best_map_is_the_one_of_the_largest_pooled_iou(cli, tmp_path):
    layouts.image_folder(tmp_path / "data")
    options = ["--config", ROOT / "configs/image_folder.yaml", "--data.root=data", *TINY, "--data.crop=[32,32]"]
    options += ["--data.batch_size=2", "--model.lr=1e-2"]
    cli("fit", *options, "--trainer.max_epochs=4")
    (run,) = Path("runs").glob("*/version_0")
    rows = [row for row in read_csv(run / "metrics.csv") if row["val/pooled_iou"]]
    scores = [float(row["val/pooled_iou"]) for row in rows]
    assert len(set(scores)) > 1
    best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    assert best["epoch"] == scores.index(max(scores))
    (state,) = [state for key, state in best["callbacks"].items() if "'val/pooled_iou'" in key]
    assert state["best_model_score"].item() == pytest.approx(max(scores))
    assert {key.split("{")[0] for key in best["callbacks"] if "monitor" in key} == {"ModelCheckpoint"}
    cli("validate", *options, "--ckpt_path=best")
    summary = json.loads((run.parent / "version_1/summary.json").read_text())
    assert summary["pooled"]["iou"] == pytest.approx(max(scores), abs=1e-5)


def test_the_best_of_volumes_is_the_one_of_the_largest_dice(checkpoint):
    callbacks = torch.load(checkpoint, weights_only=True)["callbacks"]
    (key,) = [key for key in callbacks if "'val/dice'" in key]
    assert key.startswith("ModelCheckpoint{")
    assert not any("pooled_iou" in key for key in callbacks)


def test_going_on_beyond_the_end_is_refused(cli, capsys, options, checkpoint):
    last = checkpoint.with_name("last.ckpt")
    message = refused(capsys, cli, "fit", *options, "--ckpt_path", last, "--trainer.max_epochs=1")
    assert "has been trained for 2 epochs, and --trainer.max_epochs is 1. Increase it" in message
    message = refused(capsys, cli, "fit", *options, "--ckpt_path", last, "--trainer.max_steps=2")
    assert "has been trained for 10 steps, and --trainer.max_steps is 2" in message
    cli("fit", *options, "--ckpt_path", last, "--trainer.max_epochs=2")
    assert "max_epochs is 2, so nothing is left to train." in capsys.readouterr().err


def test_a_resumed_network_keeps_the_numbers_by_which_it_normalises(cli, capsys, options, checkpoint, tmp_path):
    shutil.copytree(ROOT / "datasets/phantom", tmp_path / "phantom")
    card = yaml.safe_load((tmp_path / "phantom/dataset.yaml").read_text())
    card["normalisation"]["window"] = [-100, 200]
    (tmp_path / "phantom/dataset.yaml").write_text(yaml.safe_dump(card))
    more = ["--trainer.max_epochs=3", "--trainer.logger.init_args.name=other"]
    cli("fit", *options, "--ckpt_path", checkpoint, "--data.card=phantom/dataset.yaml", *more)
    assert "note: the checkpoint's normalisation is kept: {" in capsys.readouterr().err
    was, now = (
        torch.load(path, weights_only=True) for path in (checkpoint, "runs/other/version_0/checkpoints/last.ckpt")
    )
    assert now["hyper_parameters"]["spec"]["normalisation"] == was["hyper_parameters"]["spec"]["normalisation"]
    assert now["state_dict"]["network.normalise.window"].tolist() != [-100, 200]
    card["normalisation"] = {"per_image": True}
    (tmp_path / "phantom/dataset.yaml").write_text(yaml.safe_dump(card))
    message = refused(
        capsys, cli, "fit", *options, "--ckpt_path", checkpoint, "--data.card=phantom/dataset.yaml", *more
    )
    assert "was trained with normalisation {" in message
