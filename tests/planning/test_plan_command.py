import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import layouts
from mlla_seg.cli import main
from mlla_seg.data.card import load_card
from mlla_seg.errors import InputError
from mlla_seg.planning import budget
from mlla_seg.planning.budget import busy, pace, too_short
from mlla_seg.planning.command import ENCODERS, plan
from mlla_seg.training.module import SegmentationModule


@pytest.fixture
def radiology(tmp_path, monkeypatch):
    """Fourteen volumes in two folders and a table of a cohort, in the working directory."""
    files = {f"study/images/PAT{k:02d}_T1.nii.gz": f"study/masks/PAT{k:02d}_seg.nii.gz" for k in range(14)}
    layouts.write_volumes(tmp_path, files, 3, ct=False)
    with (tmp_path / "cohort.csv").open("w", newline="") as file:
        sets = ["train"] * 10 + ["val"] * 2 + ["test"] * 2
        rows = [(f"PAT{k:02d}", "GE" if k % 2 else "Siemens", sets[k]) for k in range(14)]
        csv.writer(file, delimiter=";").writerows([("Patient", "Scanner", "Group"), *rows])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_planned_config_trains_and_its_report_has_the_subgroups_of_the_table(radiology, capsys):
    plan("study", "project", cohort="cohort.csv", minutes=5)
    said = capsys.readouterr().out
    assert "14 .nii.gz images, such as images/PAT00_T1.nii.gz" in said
    assert "rename class_1, class_2 in the card" in said
    assert "fit --config project/config.yaml" in said
    card = load_card("project/dataset.yaml")
    assert (card.splits.split, card.splits.patient) == ("Group", "Patient")
    config = yaml.safe_load((radiology / "project/config.yaml").read_text())
    assert config["trainer"]["max_time"] == "00:00:05:00"
    assert (radiology / "project/preview.png").stat().st_size > 10_000
    few = ["--trainer.max_time", "null", "--trainer.max_steps", "2", "--trainer.limit_val_batches", "0"]
    main(["fit", "--config", "project/config.yaml", "--model.encoder", "mlla_test", *few])
    main(["test", "--config", "project/config.yaml", "--model.encoder", "mlla_test", "--ckpt_path", "last"])
    with next(radiology.glob("runs/study/*/per_case.csv")).open() as file:
        assert {row["Scanner"] for row in csv.DictReader(file)} == {"GE", "Siemens"}


def test_config_of_volumes_is_written_for_stacks_of_many_slices(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for n in range(12):
        image, label = layouts.blobs(n, 12, 24, 20, 2)
        for kind, values in (("images", (image * 900).astype(np.uint16)), ("masks", label)):
            path = tmp_path / "study" / kind / f"PAT{n:02d}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.Nifti1Image(values.transpose(2, 1, 0), np.diag([1.0, 1.0, 4.0, 1.0])).to_filename(path)
    monkeypatch.setitem(ENCODERS, "cpu", "mlla_test")
    plan("study", "project", classes=["lesion"], minutes=5)
    assert "instead of slices: mlla-seg fit --config project/config3d.yaml" in capsys.readouterr().out
    text = Path("project/config3d.yaml").read_text()
    assert "# volumes as volumes: patches on three axes. Slices, as in config.yaml, are the default" in text
    slices, volumes = (yaml.safe_load(Path("project", name).read_text()) for name in ("config.yaml", "config3d.yaml"))
    assert "dims" not in slices["model"]
    assert (volumes["model"]["dims"], volumes["model"]["decoder"]) == (3, "mlla_unet_fine")
    assert volumes["model"]["deep_supervision"]
    assert volumes["data"]["crop"] == [12, 24, 20]  # whole volumes
    assert not volumes["data"].keys() & {"context", "resize"}
    assert volumes["data"]["card"] == slices["data"]["card"]
    few = ["--trainer.max_time=null", "--trainer.max_steps=1", "--data.batch_size=2"]
    main(["fit", "--config", "project/config3d.yaml", *few, "--trainer.limit_val_batches=0"])
    saved = torch.load("runs/study3d/version_0/checkpoints/last.ckpt", weights_only=True)["hyper_parameters"]
    assert (saved["dims"], saved["strides"][0]) == (3, [1, 2, 2])  # slices are far apart


def test_a_batch_is_no_larger_than_the_training_split(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(ENCODERS, "cpu", "mlla_test")
    for n in range(6):
        for kind, values in (("images", np.full((32, 32, 3), 9 * n, np.uint8)), ("masks", np.eye(32, dtype=np.uint8))):
            (tmp_path / "study" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(tmp_path / "study" / kind / f"t{n}.png")
    plan("study", "project", minutes=5)
    assert yaml.safe_load(Path("project/config.yaml").read_text())["data"]["batch_size"] == 4  # of 6 cases


def test_every_comment_is_kept_in_valid_yaml(radiology):
    plan("study", "project", minutes=5)
    text = (radiology / "project/dataset.yaml").read_text()
    assert "# pixels by mask value in 14 of 14 masks: 0: " in text
    assert text.count("#") >= 6
    assert load_card("project/dataset.yaml").layout.mask == "masks/{case}_seg.nii.gz"


def test_bad_case_keeps_nothing_from_being_planned(radiology, capsys):
    path = radiology / "study/masks/PAT03_seg.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError) as error:
        plan("study", "project", minutes=5)
    assert "PAT03_seg.nii.gz" in str(error.value)
    assert "check --config project/config.yaml" in str(error.value)
    assert "1 of 14 cases are left out of the survey" in capsys.readouterr().err
    assert load_card("project/dataset.yaml").class_names == ["background", "class_1", "class_2"]
    with pytest.raises(SystemExit) as stop:
        main(["check", "--config", "project/config.yaml"])
    assert stop.value.code == 1
    assert "PAT03" in capsys.readouterr().out


def test_data_that_cannot_be_read_are_not_planned(radiology):
    for path in (radiology / "study/images").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"14 of 14 cases cannot be read"):
        plan("study", "project")
    assert not (radiology / "project").exists()


def test_finished_plan_is_not_overwritten(radiology):
    (radiology / "project").mkdir()
    (radiology / "project/dataset.yaml").write_text("mine")
    with pytest.raises(InputError, match="already exists"):
        plan("study", "project")
    assert (radiology / "project/dataset.yaml").read_text() == "mine"


def test_table_of_another_study_is_refused(radiology):
    (radiology / "other.csv").write_text("id,set\nX1,train\nX2,test\n")
    with pytest.raises(InputError, match="no column names the cases of the data, such as PAT00"):
        plan("study", "project", cohort="other.csv")


@pytest.mark.parametrize("name", ["Group", "other"])
def test_splits_with_a_word_that_is_none_are_refused(radiology, name):
    text = (radiology / "cohort.csv").read_text().replace(";train", ";training set").replace("Group", name)
    (radiology / "cohort.csv").write_text(text)
    with pytest.raises(InputError, match=rf"the column {name} has splits, but also 'training set' \(10 rows\)"):
        plan("study", "project", cohort="cohort.csv")


def test_table_in_the_folder_of_the_data_is_found_and_its_columns_are_told(radiology, capsys):
    text = (radiology / "cohort.csv").read_text().replace("train", "1").replace("val", "2").replace("test", "3")
    (radiology / "study/cohort.csv").write_text(text.replace("Group", "Fold"))
    (radiology / "cohort.csv").unlink()
    plan("study", "project", cohort="cohort.csv", classes=["anterior", "posterior"], minutes=5)
    said = capsys.readouterr().out
    assert "study/cohort.csv: Patient (patient), Fold (fold); subgroups by Scanner" in said
    assert "has no column of splits: 20% of the patients are drawn for the test, and the folds in Fold divide" in said
    assert load_card("project/dataset.yaml").class_names == ["background", "anterior", "posterior"]
    with pytest.raises(InputError, match=r"--cohort none\.csv: no such file, and none in study"):
        plan("study", "other", cohort="none.csv")


@pytest.fixture(scope="module")
def module():
    spec = {"channels": ["a"], "classes": [{"name": name, "colour": (0, 0, k), "id": k} for k, name in enumerate("ab")]}
    return SegmentationModule("mlla_test", "mlla_unet", spec=spec)


def test_batch_size_is_halved_until_half_the_memory_suffices(module, monkeypatch):
    sample = torch.zeros(1, 64, 64)
    plenty = budget.measure(module, sample, 16, torch.device("cpu"))
    assert plenty.batch_size == 16
    monkeypatch.setattr(budget, "free_bytes", lambda device: plenty.gigabytes * 1e9)
    assert budget.measure(module, sample, 16, torch.device("cpu")).batch_size < 16
    monkeypatch.setattr(budget, "free_bytes", lambda device: 0)
    assert budget.measure(module, sample, 16, torch.device("cpu")).batch_size == 1


@pytest.mark.parametrize(("load", "device", "said"), [(1.5, "cpu", False), (9.0, "cpu", True), (9.0, "cuda", False)])
def test_step_measured_on_a_busy_machine_is_doubted(monkeypatch, load, device, said):
    monkeypatch.setattr("os.getloadavg", lambda: (load, load, load))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    sentences = busy(budget.Budget(10, 4.25, 1.0), device)
    assert bool(sentences) == said
    assert all("load 9 on 2 cores" in text and "4.2 s" in text for text in sentences)


@pytest.mark.parametrize(
    ("minutes", "time", "epochs"), [(30, "00:00:30:00", 1), (90, "00:01:30:00", 2), (1500, "01:01:00:00", 38)]
)
def test_training_is_validated_about_twelve_times(minutes, time, epochs):
    chosen = pace(budget.Budget(10, 0.5, 1.0), 4000, minutes)
    assert chosen["max_time"].value == time
    assert chosen["check_val_every_n_epoch"].value == epochs
    assert f"{minutes * 120:,} steps" in chosen["max_time"].reason
    assert np.isclose(minutes * 60 / 200 / 12, epochs, atol=0.8)
    assert chosen["check_val_every_n_epoch"].reason == f"about {int(minutes * 60 / 200 / epochs)} validations"
    assert not too_short(budget.Budget(10, 0.5, 1.0), 4000, minutes)


def test_training_that_ends_before_its_first_validation_is_said():
    chosen = pace(budget.Budget(10, 0.5, 1.0), 4000, 1)
    assert chosen["check_val_every_n_epoch"].reason == "too short to validate"
    (text,) = too_short(budget.Budget(10, 0.5, 1.0), 4000, 1)
    assert "In 1 min only 0.3 of all samples are seen" in text
    assert "--minutes 40 for 12 validations" in text
