"""Cases and splits found in folders, on tiny files in the layouts of public downloads."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace

import pytest

import layouts
from dicom_samples import dicom_series
from mlla_seg.data.card import load_card
from mlla_seg.data.cases import Case
from mlla_seg.data.datamodule import SegmentationDataModule
from mlla_seg.data.layouts import find_cases
from mlla_seg.data.splits import split_cases
from mlla_seg.errors import InputError
from mlla_seg.training.cli import folders_of_masks
from samples import write_card

PUBLISHED = {
    "train": [5, 6, 7, 9, 10, 21, 23, 24, 26, 27, 28, 30, 31, 33, 34, 37, 39, 40],
    "test": [1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38],
}
CARDS = ("acdc", "hippocampus", "phantom", "synapse")


def touch(root, *names):
    """Create empty files: only their names matter."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names_of(cases):
    return [case.name for case in cases]


def patients_of(cases):
    return {case.patient for case in cases}


def find_and_split(name, root):
    card = load_card(name)
    return split_cases(card, find_cases(card, root))


def test_synapse_has_the_published_split(tmp_path):
    layouts.synapse(tmp_path)
    splits = find_and_split("synapse", tmp_path)
    for split, numbers in PUBLISHED.items():
        assert names_of(getattr(splits, split)) == [f"case{number:04d}" for number in sorted(numbers)]
    assert splits.val == []
    assert [path.name for path in splits.train[0].files] == ["case0005_slice000.npz", "case0005_slice001.npz"]
    assert [path.name for path in splits.test[0].files] == ["case0001.npy.h5"]


def test_acdc_volumes_win_over_slices(tmp_path):
    layouts.acdc_ssl4mis(tmp_path, patients=3)
    splits = find_and_split("acdc", tmp_path)
    assert names_of(splits.train) == [f"patient{number}_frame01" for number in ("003", "004", "005")]
    assert patients_of(splits.val) == {"002", "019", "028"}
    assert patients_of(splits.test) == {"001", "007", "008"}
    for case in splits.train + splits.val + splits.test:
        assert [path.parent.name for path in case.files] == ["ACDC_training_volumes"]


def test_acdc_slices_are_read_where_there_is_no_volume(tmp_path):
    layouts.acdc_ssl4mis(tmp_path, patients=2)
    (tmp_path / "ACDC_training_volumes/patient003_frame01.h5").unlink()
    counts = {case.name: len(case.images) for case in find_cases(load_card("acdc"), tmp_path)}
    assert counts.pop("patient003_frame01") == 3
    assert set(counts.values()) == {1}


def test_acdc_slices_alone_make_the_same_split(tmp_path):
    layouts.acdc_ssl4mis(tmp_path / "both", patients=2)
    layouts.acdc_ssl4mis(tmp_path / "slices", patients=2, slices_only=True)
    both, slices = (find_and_split("acdc", tmp_path / folder) for folder in ("both", "slices"))
    for split in ("train", "val", "test"):
        assert names_of(getattr(both, split)) == names_of(getattr(slices, split))
        assert all(len(case.images) == 3 for case in getattr(slices, split))


def test_acdc_folders_decide_the_split_over_the_lists(tmp_path):
    layouts.acdc_transunet(tmp_path)  # 001 is a test patient of the lists, 002 one of validation
    splits = find_and_split("acdc", tmp_path)
    assert patients_of(splits.train) == {"001", "003"}
    assert patients_of(splits.val) == {"019"}
    assert names_of(splits.test) == ["case_002_volume_ED", "case_002_volume_ES"]
    assert len(splits.train[0].images) == 3


@pytest.mark.parametrize(("version", "suffix"), [(1, ""), (2, "_0000")])
def test_nnunet_folder_of_both_versions(tmp_path, version, suffix):
    layouts.hippocampus(tmp_path, version=version, cases=3)
    cases = find_cases(load_card("hippocampus"), tmp_path)
    assert names_of(cases) == ["hippocampus_000", "hippocampus_001", "hippocampus_002"]
    assert cases[1].patient == "hippocampus_001"
    assert cases[1].images == ((tmp_path / f"imagesTr/hippocampus_001{suffix}.nii.gz",),)
    assert cases[1].masks == (tmp_path / "labelsTr/hippocampus_001.nii.gz",)


def test_nnunet_channels_are_files_of_one_entry(tmp_path):
    layouts.hippocampus(tmp_path, version=2, cases=1)
    touch(tmp_path / "imagesTr", "hippocampus_000_0001.nii.gz")
    (case,) = find_cases(load_card("hippocampus"), tmp_path)
    assert [[path.name[-11:] for path in files] for files in case.images] == [["0000.nii.gz", "0001.nii.gz"]]


def test_nnunet_image_that_is_missing_is_named(tmp_path):
    layouts.hippocampus(tmp_path, cases=2)
    (tmp_path / "imagesTr/hippocampus_001.nii.gz").unlink()
    with pytest.raises(InputError, match=r"labelsTr/hippocampus_001\.nii\.gz has no image: expected .*_0000\.nii\.gz"):
        find_cases(load_card("hippocampus"), tmp_path)


@pytest.mark.parametrize(
    ("card", "name"),
    [
        ("synapse", "train_npz/case0005_slice{}.npz"),
        ("acdc", "ACDC_training_slices/patient003_frame01_slice_{}.h5"),
        ("acdc", "train/case_001_sliceED_{}.npz"),
    ],
)
def test_slices_are_in_numerical_order(tmp_path, card, name):
    touch(tmp_path, *(name.format(i) for i in range(12)))
    (case,) = find_cases(load_card(card), tmp_path)
    assert case.files == [tmp_path / name.format(i) for i in range(12)]


@pytest.mark.parametrize(
    ("indices", "found"),
    [
        (["0", "1", "3"], r"are not consecutive \(missing: 2\)"),
        (["0", "300000000"], r"are not consecutive \(missing: 1, 2, 3, 4, 5, \.\.\., 299999999 in all\)"),
        (["0", "1", "01"], r"_0?1\.h5; a case has one file per"),
    ],
)
def test_slices_that_are_not_consecutive_are_refused(tmp_path, indices, found):
    touch(tmp_path, *(f"ACDC_training_slices/patient003_frame01_slice_{i}.h5" for i in indices))
    with pytest.raises(InputError, match=rf"ACDC_training_slices.*patient003_frame01 .*{found}"):
        find_cases(load_card("acdc"), tmp_path)


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("exists", [False, True])
def test_data_that_are_not_there_are_explained(tmp_path, name, exists):
    card = load_card(name)
    root = tmp_path / "here"
    if exists:
        touch(root, "unrelated.txt")
    with pytest.raises(InputError) as caught:
        find_cases(card, root)
    message = str(caught.value)
    for part in (card.title, str(root), card.source, card.licence, "--data.root", *card.layout.tree.splitlines()):
        assert part in message
    assert ("does not exist" in message) is not exists


def test_nnunet_folder_without_labels_is_explained(tmp_path):
    layouts.hippocampus(tmp_path, cases=1)
    shutil.rmtree(tmp_path / "labelsTr")
    with pytest.raises(InputError, match="holds no file of the expected layout"):
        find_cases(load_card("hippocampus"), tmp_path)


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (
            {"0": "background", "1": "Posterior", "2": "Anterior"},
            "0 background, 1 posterior, 2 anterior; the card hippocampus expects 0 background, 1 anter",
        ),
        (
            {"background": 0, "Posterior": 1, "Anterior": 2},
            "0 background, 1 posterior, 2 anterior; the card hippocampus expects 0 background, 1 anter",
        ),
        ({"background": 0, "Anterior": 1}, "0 background, 1 anterior; the card"),
        ({"background": 0, "Anterior": 1, "Posterior": 3}, "3 posterior; the card"),
        ({}, "none; the card"),
    ],
)
def test_other_classes_than_the_cards_are_refused(tmp_path, labels, found):
    layouts.hippocampus(tmp_path, cases=1)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    with pytest.raises(InputError, match=rf"dataset\.json .*{found}"):
        find_cases(load_card("hippocampus"), tmp_path)


def test_labels_in_any_order_and_an_ignore_label_are_the_cards(tmp_path):
    layouts.hippocampus(tmp_path, cases=1)
    labels = {"ignore": 3, "posterior": 2, "anterior": 1, "background": 0}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    assert len(find_cases(load_card("hippocampus"), tmp_path)) == 1


def test_dataset_json_that_is_no_json_is_named(tmp_path):
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(InputError, match=r"dataset\.json is not valid JSON"):
        find_cases(load_card("hippocampus"), tmp_path)


def test_hidden_files_are_ignored(tmp_path):
    layouts.hippocampus(tmp_path / "nnunet", cases=2)
    touch(tmp_path / "nnunet", "labelsTr/._hippocampus_000.nii.gz", "imagesTr/._hippocampus_000.nii.gz")
    assert names_of(find_cases(load_card("hippocampus"), tmp_path / "nnunet")) == ["hippocampus_000", "hippocampus_001"]
    touch(tmp_path / "files", "train_npz/case0005_slice000.npz", "train_npz/._case0005_slice000.npz", ".DS_Store")
    (case,) = find_cases(load_card("synapse"), tmp_path / "files")
    assert len(case.files) == 1


def test_patient_in_two_lists_is_refused(tmp_path):
    path = write_card(tmp_path / "card", "synapse")
    with (path.parent / "splits/test.txt").open("a") as file:
        file.write("0005  # also for training\n0006\n")
    touch(tmp_path / "data", "train_npz/case0005_slice000.npz")
    card = load_card(path)
    with pytest.raises(InputError, match=r"patient 0005 is in both train and test \(2 such patients\)"):
        split_cases(card, find_cases(card, tmp_path / "data"))


def test_patient_in_two_folders_is_refused(tmp_path):
    touch(tmp_path, "train/case_001_sliceED_0.npz", "test/case_001_volume_ES.npz")
    with pytest.raises(InputError, match="patient 001 is in both train and test"):
        find_and_split("acdc", tmp_path)


def test_volume_whose_slices_lie_in_two_folders_is_refused(tmp_path):
    touch(tmp_path, "train/case_001_sliceED_0.npz", "valid/case_001_sliceED_1.npz")
    with pytest.raises(InputError, match="001"):
        find_and_split("acdc", tmp_path)


def test_patients_that_are_not_there_are_noted(tmp_path, capsys):
    touch(tmp_path, "train_npz/case0005_slice000.npz")
    splits = find_and_split("synapse", tmp_path)
    assert names_of(splits.train) == ["case0005"]
    notes = capsys.readouterr().err
    assert "note: 17 of 18 patients of split train are missing: 0006, 0007, 0009, 0010, 0021, ..." in notes
    assert "note: 12 of 12 patients of split test" in notes


def test_nothing_to_train_on_is_refused(tmp_path):
    touch(tmp_path, "test_vol_h5/case0001.npy.h5")
    with pytest.raises(InputError, match="1 cases found, but none of them is in the training split"):
        find_and_split("synapse", tmp_path)


def test_list_that_is_missing_is_named(tmp_path):
    card = load_card(write_card(tmp_path / "card", "synapse", splits={"train": "splits/absent.txt"}))
    with pytest.raises(InputError, match=r"absent\.txt does not exist"):
        split_cases(card, [Case("a", "a", ())])


def fractions_card(**splits):
    return replace(load_card("hippocampus"), splits=splits)


def test_drawn_split_is_by_patient_and_does_not_depend_on_the_order_of_files():
    card = fractions_card(seed=0, val=0.1, test=0.2)
    cases = [Case(f"{patient}_{visit}", f"{patient}", ()) for patient in range(50) for visit in "ab"]
    splits = split_cases(card, cases)
    by_split = [patients_of(part) for part in (splits.train, splits.val, splits.test)]
    assert [len(patients) for patients in by_split] == [35, 5, 10]
    assert len(set.union(*by_split)) == 50
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [70, 10, 20]
    random.Random(1).shuffle(cases)
    again = split_cases(card, cases)
    assert [patients_of(part) for part in (again.train, again.val, again.test)] == by_split
    assert patients_of(split_cases(replace(card, splits=replace(card.splits, seed=1)), cases).test) != by_split[2]


def test_drawn_split_stays_the_same_for_good():
    # Results that were published on a drawn split can only be compared while these numbers hold.
    splits = split_cases(fractions_card(seed=0, val=0.1, test=0.2), [Case(f"{k}", f"{k}", ()) for k in range(10)])
    assert (names_of(splits.val), names_of(splits.test)) == (["1"], ["7", "8"])


@pytest.mark.parametrize(("patients", "sizes"), [(2, [2, 0, 0]), (3, [1, 1, 1]), (20, [14, 2, 4])])
def test_drawn_split_of_few_patients_leaves_some_for_training(patients, sizes):
    cases = [Case(f"{k:02d}", f"{k:02d}", ()) for k in range(patients)]
    splits = split_cases(fractions_card(seed=0, val=0.1, test=0.2), cases)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == sizes


def separate(tmp_path, **layout):
    """A card whose masks are in files of their own."""
    base = load_card("flare22")
    return replace(base, layout=replace(base.layout, **layout))


def test_masks_are_where_the_template_says_and_images_without_one_are_left_out(tmp_path, capsys):
    card = separate(tmp_path, patterns=[r"images(?P<split>Tr|Val)/(?P<case>w\d)\.nii"], mask="labels{split}/{case}.nii")
    touch(tmp_path, "imagesTr/w1.nii", "imagesTr/w2.nii", "imagesVal/w3.nii", "labelsTr/w1.nii", "labelsVal/w3.nii")
    cases = find_cases(card, tmp_path)
    assert [(case.name, case.split, case.masks[0].relative_to(tmp_path).as_posix()) for case in cases] == [
        ("w1", "train", "labelsTr/w1.nii"),
        ("w3", "val", "labelsVal/w3.nii"),
    ]
    assert "1 files in" in (note := capsys.readouterr().err) and "w2.nii" in note


def test_channels_of_a_pattern_are_sorted(tmp_path):
    card = separate(tmp_path, patterns=[r"(?P<case>\d)_(?P<channel>t1|t2|flair)\.nii"], mask="{case}_seg.nii")
    touch(tmp_path, "1_t2.nii", "1_flair.nii", "1_t1.nii", "1_seg.nii")
    (case,) = find_cases(card, tmp_path)
    assert [path.name for path in case.images[0]] == ["1_flair.nii", "1_t1.nii", "1_t2.nii"]
    assert [path.name for path in case.files] == ["1_flair.nii", "1_t1.nii", "1_t2.nii", "1_seg.nii"]


def test_folders_of_dicom_are_images(tmp_path):
    card = separate(tmp_path, patterns=[r"(?P<case>\w+)/ct"], mask="{case}/mask.nii.gz")
    dicom_series(tmp_path / "anna/ct")
    touch(tmp_path, "anna/mask.nii.gz", "otto/mask.nii.gz", "otto/ct/readme.txt")
    (case,) = find_cases(card, tmp_path)
    assert (case.name, case.images) == ("anna", ((tmp_path / "anna/ct",),))


def test_masks_never_lie_outside_of_the_root(tmp_path):
    card = separate(tmp_path, patterns=[r"(?P<case>\d)\.nii"], mask="../{case}.nii")
    touch(tmp_path, "1.nii")
    with pytest.raises(InputError, match=r"1\.nii: the card's template leads to \.\./1\.nii, outside "):
        find_cases(card, tmp_path)


def test_folders_of_splits_mean_what_the_card_says(tmp_path):
    layouts.amos_ct(tmp_path)
    splits = split_cases(load_card("amos_ct"), find_cases(load_card("amos_ct"), tmp_path))
    assert ([case.name for case in splits.test], len(splits.train), splits.val) == (["amos_0008"], 3, [])
    layouts.amos_mr(tmp_path)  # in the same folder, as the download has it
    mr = find_cases(load_card("amos_mr"), tmp_path)
    assert {case.name for case in mr} == {"amos_0507", "amos_0508", "amos_0509", "amos_0514"}
    assert len(find_cases(load_card("amos_ct"), tmp_path)) == 4
    card = separate(tmp_path, patterns=[r"(?P<split>odd)/(?P<case>\d)\.nii"], mask="{case}.nii")
    touch(tmp_path, "odd/1.nii")
    with pytest.raises(InputError, match="Unknown split folder of"):
        find_cases(card, tmp_path)


def test_patients_of_nnunet_cases_are_found_by_the_cards_expression(tmp_path):
    layouts.hippocampus(tmp_path, cases=2)
    base = load_card("hippocampus")
    card = replace(base, layout=replace(base.layout, patient=r"hippocampus_\d"))
    assert {case.patient for case in find_cases(card, tmp_path)} == {"hippocampus_0"}


def test_tiles_are_tested_by_the_masks_without_boundaries(tmp_path):
    layouts.vaihingen(tmp_path)
    splits = split_cases(load_card("vaihingen"), find_cases(load_card("vaihingen"), tmp_path))
    assert [case.masks[0].parent.name for case in splits.train] == ["gts_for_participants"] * 3
    assert [case.masks[0].name for case in splits.test] == [
        "top_mosaic_09cm_area2_noBoundary.tif",
        "top_mosaic_09cm_area38_noBoundary.tif",
    ]
    for full, folder in ((False, "gts_eroded_for_participants"), (True, "gts_for_participants")):
        data = SegmentationDataModule("vaihingen", tmp_path, crop=[32, 32], full_labels=full)
        assert folders_of_masks(data, "test") == [folder]
        assert folders_of_masks(data, "train") == ["gts_for_participants"]


def test_of_several_places_the_first_with_a_file_is_taken(tmp_path):
    layouts.potsdam(tmp_path)
    participants = tmp_path / "5_Labels_for_participants"
    participants.mkdir()
    shutil.copy(tmp_path / "5_Labels_all/top_potsdam_2_10_label.tif", participants)
    cases = {case.name: case for case in find_cases(load_card("potsdam"), tmp_path)}
    assert cases["2_10"].masks[0].parent == participants
    assert cases["3_11"].masks[0].parent.name == "5_Labels_all"


def test_further_channels_lie_where_the_card_says_with_zeros_before_their_numbers(tmp_path):
    layouts.potsdam(tmp_path)
    card = load_card("potsdam_rgbir").using(["red", "height"])
    case = next(case for case in find_cases(card, tmp_path) if case.name == "3_11")
    assert [path.name for path in case.images[0]] == ["top_potsdam_3_11_RGBIR.tif", "dsm_potsdam_03_11.tif"]
    assert card.bands == ("red", "green", "blue", "near infrared", "height")
    assert card.seen == ("red", "height")
