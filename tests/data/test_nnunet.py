"""Folders without a card as data: ids, normalisation, slices, endings, patients and folds by ``dataset.json``."""

from __future__ import annotations

import json
import re

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

import layouts
from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.data.dataspec import Normalisation
from mlla_seg.data.formats.registry import write_mask
from mlla_seg.data.nnunet import nnunet_card, nnunet_cases
from mlla_seg.errors import InputError


def test_folder_without_description_or_root_is_answered(tmp_path):
    with pytest.raises(InputError, match=r"Without --data\.card the data are described by .*dataset\.json"):
        SegmentationDataModule(root=str(tmp_path), crop=[32, 32])
    with pytest.raises(InputError, match=r"--data\.root is missing"):
        SegmentationDataModule("hippocampus", crop=[32, 32])


@pytest.fixture
def data(tmp_path):
    layouts.nnunet(tmp_path / "data")
    return SegmentationDataModule(root=str(tmp_path / "data"), crop=[32, 32], cache_dir=str(tmp_path / "cache"))


def test_ids_with_gaps_are_indices_inside_and_ids_outside(data, tmp_path):
    data.prepare_data()
    data.setup("fit")
    assert len(data.train_set.cases) + len(data.val_set) + len(data.test_set) == 9  # one has no label
    case = data.train_set.cases[0]
    label = tmp_path / f"data/labelsTr/{case.name}.nii.gz"
    stored = np.asarray(nib.load(label).dataobj)
    assert set(np.unique(case.mask())) == {0, 1, 2}
    assert case.voxels == tuple(int((stored == value).sum()) for value in (0, 2, 7))
    write_mask(tmp_path / "mask.nii.gz", case.mask(), data.spec.classes, label)
    written = nib.load(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), stored)
    assert written.get_data_dtype() == np.uint8


def test_ct_is_normalised_by_what_lies_under_the_training_masks(data, tmp_path):
    measured = data.spec.normalisation
    values = []
    for case in data.splits.train:
        image, label = (np.asarray(nib.load(path).dataobj) for path in (case.images[0][0], case.masks[0]))
        values.append(image[label > 0])
    values = np.concatenate(values)
    assert measured.window == pytest.approx(np.percentile(values, (0.5, 99.5)))
    assert measured.mean == pytest.approx(values.mean())
    assert measured.std == pytest.approx(values.std())
    held_out = SegmentationDataModule(root=str(tmp_path / "data"), crop=[8, 8], fold=0, cache_dir=str(tmp_path / "c"))
    assert held_out.spec.normalisation != measured  # what is held out is not measured


def test_masks_without_foreground_are_refused(tmp_path):
    layouts.nnunet(tmp_path / "data")
    for path in (tmp_path / "data/labelsTr").iterdir():
        image = nib.load(path)
        nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine).to_filename(path)
    data = SegmentationDataModule(root=str(tmp_path / "data"), crop=[8, 8], cache_dir=str(tmp_path / "cache"))
    with pytest.raises(InputError, match="no training mask contains anything but background"):
        data.spec  # noqa: B018  measured when it is asked for


def test_channels_count_from_zero(tmp_path):
    layouts.nnunet(tmp_path / "data")
    image = tmp_path / "data/imagesTr/scan_0_0000.nii.gz"
    image.rename(image.with_name("scan_0_0001.nii.gz"))
    data = SegmentationDataModule(root=str(tmp_path / "data"), crop=[8, 8])
    with pytest.raises(InputError, match=r"scan_0_0001\.nii\.gz: the channels of scan_0 are \[1\], expected consec"):
        data.splits  # noqa: B018  found when they are asked for


@pytest.mark.parametrize("steps", [(0.6, 4, 0.6), (4, 0.6, 0.6)])
def test_slices_run_along_the_coarsest_axis_unless_told(tmp_path, capsys, steps):
    layouts.nnunet(tmp_path / "data")
    for path in (tmp_path / "data").glob("*/*.nii.gz"):
        array = np.asarray(nib.load(path).dataobj)  # (32, 32, 3) along right, anterior, superior
        nib.Nifti1Image(array, np.diag([*steps, 1])).to_filename(path)
    how = {"root": str(tmp_path / "data"), "crop": [8, 8], "cache_dir": str(tmp_path / "cache")}
    data = SegmentationDataModule(**how)
    assert data.spec.plane == "acquired"
    data.prepare_data()
    data.setup("fit")
    case = data.train_set.cases[0]
    assert case.spacing_mm == pytest.approx((4, 0.6, 0.6))
    assert case.shape == (32, 1, 3, 32)
    assert "are not sliced along their coarsest axis" not in capsys.readouterr().err
    fixed = SegmentationDataModule(**how, plane="axial")
    assert fixed.spec.plane == "axial"
    fixed.prepare_data()
    said = capsys.readouterr().err
    assert re.search(
        r"note: 9 of 9 volumes of kidney_stones, such as scan_\d, are not sliced along their coarsest axis "
        r"\(plane: axial\)\. Use --data\.plane acquired to do so\.",
        said,
    )
    with pytest.raises(InputError, match=r"'axal'\. Did you mean axial\? Known: axial, coronal, sagittal, acquired"):
        SegmentationDataModule(**how, plane="axal")


def test_slices_have_the_median_spacing_of_all_cases(tmp_path, capsys):
    layouts.nnunet(tmp_path / "data")
    names = sorted(path.name.removesuffix(".nii.gz") for path in (tmp_path / "data/labelsTr").glob("*.nii.gz"))
    for k, name in enumerate(names):
        steps = (0.5, 0.6, 4.0) if k < 2 else (0.8, 0.6, 5.0)
        for path in (tmp_path / "data").glob(f"*/{name}*"):
            nib.Nifti1Image(np.asarray(nib.load(path).dataobj), np.diag([*steps, 1])).to_filename(path)
    how = {"root": str(tmp_path / "data"), "crop": [8, 8], "cache_dir": str(tmp_path / "cache")}
    specs = [SegmentationDataModule(**how, fold=fold).spec for fold in (0, 1)]
    assert [spec.spacing_mm for spec in specs] == [(None, 0.6, 0.8)] * 2  # rows run along 0.6, columns along 0.8
    data = SegmentationDataModule(**how)
    data.prepare_data()
    said = capsys.readouterr().err
    assert said.count("note: 2 of 9 volumes of kidney_stones, such as ") == 1
    assert "are resampled for the network to original x 0.6 mm x 0.8 mm (slices, rows, columns)" in said
    data.setup("fit")
    assert set(data.train_set.grids) <= {(3, 32, 20), (3, 32, 32)}  # 32 x 0.5 / 0.8
    kept = SegmentationDataModule(**how, spacing_mm=[None, None, None])
    kept.setup("fit")
    assert set(kept.train_set.grids) == {(3, 32, 32)}
    with pytest.raises(InputError, match=r"columns\] in mm, median or null, got \[1, 0, 1\]"):
        SegmentationDataModule(**how, spacing_mm=[1, 0, 1])


def png_folder(root, values=(0, 1), channels=("US",), colours=False):
    """2-D images as nnU-Net stores them, masks of two values."""
    for name in ("imagesTr", "labelsTr"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for n in range(6):
        mask = np.zeros((40, 36), np.uint8)
        mask[8 + n : 24, 9:20] = 1
        image = (mask * 90 + rng.integers(0, 60, mask.shape)).astype(np.uint8)
        image = np.stack([image, image // 2, 255 - image], axis=-1) if colours else image
        Image.fromarray(image).save(root / f"imagesTr/c{n}_0000.png")
        Image.fromarray(np.array(values, np.uint8)[mask]).save(root / f"labelsTr/c{n}.png")
    labels = {"background": 0, "nodule": 1}
    content = {"channel_names": dict(enumerate(channels)), "labels": labels, "numTraining": 6, "file_ending": ".png"}
    return layouts.describe(root, **content)


def module(root, tmp_path, **options):
    return SegmentationDataModule(root=str(root), crop=[32, 32], cache_dir=str(tmp_path / "cache"), **options)


def test_255_is_no_class_unless_it_is_declared(tmp_path, capsys):
    root = png_folder(tmp_path / "data", values=(0, 255))
    with pytest.raises(InputError, match=r"c0\.png: mask value 255 in \d+ voxels; expected 0 to 1 \(background, nodu"):
        module(root, tmp_path).prepare_data()
    for path in (root / "labelsTr").iterdir():
        mask = np.array(Image.open(path))
        mask[:20] //= 255  # the nodule; the rest is not labelled
        Image.fromarray(mask).save(path)
    content = json.loads((root / "dataset.json").read_text())
    layouts.describe(root, **{**content, "labels": {"background": 0, "nodule": 1, "ignore": 255}})
    data = module(root, tmp_path)
    data.prepare_data()
    data.setup("fit")
    assert set(np.unique(data.train_set.cases[0].mask())) == {0, 1, 255}
    assert re.search(
        r"\(\d+\.\d%\) in 6 of 6 cases of data, such as c\d, are ignored \(no data, mask value 255\)",
        capsys.readouterr().err,
    )


def test_colours_of_one_file_are_channels(tmp_path, capsys):
    root = png_folder(tmp_path / "data", channels=("rgb_to_0_1",) * 3, colours=True)
    data = module(root, tmp_path)
    data.prepare_data()
    assert data.spec.normalisation == Normalisation(std=(255.0,) * 3)
    assert data.spec.channels == ("rgb_to_0_1 0", "rgb_to_0_1 1", "rgb_to_0_1 2")
    assert "zscore" not in capsys.readouterr().err


def test_each_channel_is_normalised_by_its_name_and_the_rest_is_said(tmp_path, capsys):
    layouts.nnunet(tmp_path / "data")
    root = tmp_path / "data"
    for path in sorted((root / "imagesTr").iterdir()):
        image = nib.load(path)
        second = np.asarray(image.dataobj) * 3 + 7
        nib.Nifti1Image(second, image.affine).to_filename(str(path).replace("_0000", "_0001"))
    content = json.loads((root / "dataset.json").read_text())
    layouts.describe(root, **{**content, "channel_names": {"0": "ct", "1": "PET"}, "numTraining": 30})
    data = module(root, tmp_path)
    data.prepare_data()
    said = capsys.readouterr().err
    assert "PET names no scheme of nnU-Net, so zscore is used" in said
    assert "the ids 0, 2, 7 have gaps and are kept in masks" in said
    assert "no label is ignored; class background (0) is the background" in said
    assert "says numTraining 30, but 9 cases are there" in said
    normalisation = data.spec.normalisation
    assert normalisation.per_case == (None, "zscore")
    assert normalisation.windows[1] is None
    data.setup("fit")
    image = data.train_set.cases[0].image()
    shift, scale = data.train_set.cases[0].moments
    assert (shift[0], scale[0]) == (0, 1)
    assert (shift[1], scale[1]) == pytest.approx((image[:, 1].mean(), image[:, 1].std()), rel=1e-4)


@pytest.mark.parametrize(
    ("ending", "written"), [(".nii.gz", ".NII.GZ"), (".nii", ".nii"), (".MHA", ".mha"), (".nrrd", ".NRRD")]
)
def test_files_may_have_any_ending_in_any_case(tmp_path, ending, written):
    root = tmp_path / "data"
    layouts.nnunet(root)
    for path in sorted(root.glob("*/*.nii.gz")):
        target = path.with_name(path.name.replace(".nii.gz", ".mha" if written == ".mha" else written.lower()))
        image = sitk.ReadImage(str(path))
        path.unlink()
        sitk.WriteImage(image, str(target))
        target.rename(path.with_name(path.name.replace(".nii.gz", written)))
    content = json.loads((root / "dataset.json").read_text())
    layouts.describe(root, **{**content, "file_ending": ending})
    data = module(root, tmp_path)
    data.prepare_data()
    assert sum(len(cases) for cases in vars(data.splits).values()) == 9


def test_an_ending_that_no_file_has_is_named(tmp_path):
    root = png_folder(tmp_path / "data")
    content = json.loads((root / "dataset.json").read_text())
    del content["file_ending"]
    layouts.describe(root, **content)
    with pytest.raises(
        InputError, match=r"no file_ending, so it is \.nii\.gz, but none of the 6 files .* such as c0\.png\. Correct"
    ):
        module(root, tmp_path).splits  # noqa: B018


def test_frames_of_a_patient_stay_together(tmp_path, capsys):
    root = png_folder(tmp_path / "data")
    for path in sorted(root.glob("*/c*.png")):
        n = int(path.name[1])
        path.rename(path.with_name(f"patient{n // 2:03d}_frame{n % 2}{path.name[2:]}"))
    splits = module(root, tmp_path).splits
    patients = [{case.name[:10] for case in cases} for cases in vars(splits).values()]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 3
    assert "the 6 cases are of 3 patients" in capsys.readouterr().err
    own = module(root, tmp_path, patient=".+").splits
    assert len({case.patient for case in own.train}) == len(own.train)
    with pytest.raises(InputError, match=r"--data\.patient: patient '\(x' is not a valid regular expression"):
        module(root, tmp_path, patient="(x")


def test_folds_of_the_folder_are_used_and_said(tmp_path, capsys):
    root = png_folder(tmp_path / "data")
    folds = [{"train": ["c0", "c1", "c2"], "val": ["c3"]}, {"train": ["c3"], "val": ["c0"]}]
    (root / "splits_final.json").write_text(json.dumps(folds))
    splits = module(root, tmp_path, fold=0).splits
    assert [case.name for case in splits.train] == ["c0", "c1", "c2"]
    assert "splits_final.json: 3 cases train, 1 validate, 2 in neither list test" in capsys.readouterr().err
    assert module(root, tmp_path).splits.test
    assert "splits_final.json is used with --data.fold only" in capsys.readouterr().err


def test_cases_that_the_description_does_not_list_are_left_out_and_said(tmp_path, capsys):
    root = tmp_path / "data"
    layouts.nnunet(root)
    (root / "imagesTr/scan_4_0000.nii.gz").unlink()  # has no mask
    about = json.loads((root / "dataset.json").read_text())
    names = sorted(path.name.removesuffix(".nii.gz") for path in (root / "labelsTr").iterdir())

    def found(**listed):
        (root / "dataset.json").write_text(json.dumps({**about, "numTraining": None, **listed}))
        cases = [case.name for case in nnunet_cases(nnunet_card(root), root)]
        return cases, capsys.readouterr().err

    decathlon = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]
    assert found(training=decathlon) == (names, "")
    cases, said = found(training=decathlon[1:])
    assert cases == names[1:] and "note: 1 files in labelsTr are not listed in " in said and names[0] in said
    cases, said = found(dataset={names[0]: {}, "lost": {}})
    assert cases == names[:1] and "1 files in labelsTr are listed in " in said and "not there: lost" in said
    cases, said = found(training=[{"label": "elsewhere/a.nii.gz"}])
    assert cases == names and "lists 1 training cases, such as a, none of which is there; all cases" in said
