import re

import pytest

from mlla_seg.data.card_sections import Layout
from mlla_seg.planning.names import Name
from mlla_seg.planning.pairs import channel_name, find_naming, layout_of

CASES = range(1, 13)


def names(*templates):
    return [Name(template.format(k=k)) for template in templates for k in CASES]


def planned(found):
    """Return the pairs that a card with the planned layout finds, by case."""
    layout = layout_of(find_naming(found))
    Layout(format="files", tree="", **layout)  # is valid
    (pattern,) = layout["patterns"]
    matches = [match for name in found if (match := re.fullmatch(pattern, name.whole))]
    return {match["case"]: (match[0], layout["mask"].format(**match.groupdict())) for match in matches}


@pytest.mark.parametrize(
    ("image", "mask", "case"),
    [
        ("images/PAT{k:02d}_T1.nii.gz", "masks/PAT{k:02d}_seg.nii.gz", "PAT07"),
        ("PAT{k:02d}_T1.nii.gz", "PAT{k:02d}_seg.nii.gz", "PAT07"),
        ("PAT{k:02d}/T1.nii.gz", "PAT{k:02d}/seg.nii.gz", "PAT07"),
        ("PAT{k:02d}/T1.nii.gz", "PAT{k:02d}/labels/T1.nii.gz", "PAT07"),
        ("img/img{k:04d}.nii.gz", "label/label{k:04d}.nii.gz", "0007"),
        ("imagesTr/im{k}.nii.gz", "labelsTr/lb{k}.nii.gz", "7"),
        ("a/scan {k}.tif", "ground truth/scan {k}.png", "scan 7"),
        ("tiles/x{k}y{k}.jpg", "tiles_gt/x{k}y{k}.png", "x7y7"),
        ("scene{k}.tif", "scene{k}_mask.tif", "scene7"),
        ("{k}.png", "mask_{k}.png", "7"),
        ("{k}.jp2", "{k}-labels.tif", "7"),
        ("JPEGImages/2007_{k:06d}.jpg", "SegmentationClass/2007_{k:06d}.png", "2007_000007"),
        ("images/area_1m_{k}of9.tif", "masks/mask_{k}of9.tif", "7of9"),
        ("all labelled/images/{k}.png", "all labelled/masks/{k}.png", "7"),
        (
            "sub-{k:02d}/anat/sub-{k:02d}_T1w.nii.gz",
            "derivatives/labels/sub-{k:02d}/anat/sub-{k:02d}_T1w_dseg.nii.gz",
            "sub-07_T1w",
        ),
        ("images/a(+){k}.[x].png", "masks/a(+){k}.[x].png", "a(+)7.[x"),
        ("im{{}}/{k}.png", "mask{{}}/{k}.png", "7"),
    ],
)
def test_images_and_masks_are_paired_whatever_their_names(image, mask, case):
    found = planned(names(image, mask))
    assert len(found) == len(CASES)
    assert found[case] == (image.format(k=7), mask.format(k=7))


def test_files_of_one_case_are_its_channels():
    found = names("P{k:03d}/P{k:03d}_t1.nii.gz", "P{k:03d}/P{k:03d}_flair.nii.gz", "P{k:03d}/P{k:03d}_seg.nii.gz")
    naming = find_naming(found)
    assert [channel_name(affix) for affix in naming.images] == ["flair", "t1"]
    assert layout_of(naming)["extra_channels"] == {"t1": "{folder0}/{case}_t1.nii.gz"}


def test_file_that_only_some_cases_have_is_no_channel():
    found = [*names("{k}_t1.nii", "{k}_seg.nii"), Name("3_t2.nii")]
    assert len(find_naming(found).images) == 1


def test_images_without_mask_and_masks_without_image_change_nothing():
    found = [*names("images/{k}.png", "masks/{k}.png"), Name("images/100.png"), Name("masks/200.png")]
    assert find_naming(found).pairs == len(CASES)


@pytest.mark.parametrize(
    ("templates", "group"),
    [
        (["{s}/images/{k}.png", "{s}/masks/{k}.png"], "train|val"),
        (["images_{s}/{k}.png", "masks_{s}/{k}.png"], "train|val"),
        (["images/{s}/{k}.png", "masks/{s}/{k}.png"], "train|val"),
    ],
)
def test_folders_named_after_splits_become_splits(templates, group):
    found = [
        Name(template.format(s=split, k=f"{split}{k}"))
        for template in templates
        for split in ("train", "val")
        for k in CASES
    ]
    (pattern,) = layout_of(find_naming(found))["patterns"]
    assert f"(?P<split>{group})" in pattern
    assert len(planned(found)) == 2 * len(CASES)


def test_one_pair_is_enough():
    assert planned([Name("scene.tif"), Name("scene_mask.tif")]) == {"scene": ("scene.tif", "scene_mask.tif")}


def test_plainest_of_several_masks_is_taken():
    found = names("rgb/{k}.tif", "labels/{k}_label.tif", "labels_noBoundary/{k}_label_noBoundary.tif")
    assert layout_of(find_naming(found))["mask"] == "labels/{case}_label.tif"


def test_masks_that_no_name_tells_are_found_by_their_content():
    found = names("a/{k}.png", "b/{k}.png")
    assert find_naming(found) is None
    naming = find_naming(found, lambda name: name.whole.startswith("b/"))
    assert layout_of(naming) == {"patterns": [r"a/(?P<case>\d+)\.png"], "mask": "b/{case}.png"}


def test_series_are_folders_with_names_of_their_own():
    found = [Name(f"scans/p.{k}", series=True) for k in CASES] + names("masks/p.{k}.nii.gz")
    assert planned(found)["p.7"] == ("scans/p.7", "masks/p.7.nii.gz")


@pytest.mark.parametrize(
    ("image", "mask", "pattern", "template"),
    [
        ("dicom/PAT{k:02d}/MR", "masks/PAT{k:02d}.nii.gz", r"dicom/(?P<case>[^/]+)/MR", "masks/{case}.nii.gz"),
        ("ct/P{k}/9.{k}/8.{k}", "seg/P{k}.nii.gz", r"ct/(?P<case>[^/]+)/[^/]+/[^/]+", "seg/{case}.nii.gz"),
        ("ct/P{k}/9.{k}/8.{k}", "masks/P{k}/x.nrrd", r"ct/(?P<case>[^/]+)/[^/]+/[^/]+", "masks/{case}/x.nrrd"),
        ("A{k}a/8.{k}", "A{k}a/seg.nii", r"(?P<case>[^/]+)/[^/]+(?<!/seg\.nii)", "{case}/seg.nii"),
    ],
)
def test_series_are_paired_by_the_folder_that_is_named_after_the_case(image, mask, pattern, template):
    found = [*(Name(image.format(k=k), series=True) for k in CASES), *names(mask)]
    assert layout_of(find_naming(found)) == {"patterns": [pattern], "mask": template}
    assert not [name for name in names(mask) if re.fullmatch(pattern, name.whole)]


def test_files_in_a_folder_of_each_case_are_its_channels_and_may_have_any_name():
    found = names("images/P{k:02d}/t1.nii", "images/P{k:02d}/t2.nii", "masks/P{k:02d}.nii")
    naming = find_naming(found)
    assert [channel_name(affix) for affix in naming.images] == ["t1", "t2"]
    assert layout_of(naming)["extra_channels"] == {"t2": "images/{case}/t2.nii"}
    assert planned(names("images/a{k}b/scan{k}{k}.nii", "masks/a{k}b.nii"))["a7b"][0] == "images/a7b/scan77.nii"


@pytest.mark.parametrize(
    ("folder", "mask"),
    [
        ("images/S{k}/", "masks/S{k}.tif"),
        ("S{k}/", "S{k}/mask.tif"),
        ("images/S{k}/R10m/", "masks/S{k}.tif"),
    ],
)
def test_bands_in_a_folder_of_each_scene_may_start_with_its_own_tile_and_date(folder, mask):
    bands = [f"{folder}T{{k}}3TQM_2022{{k:02d}}12_{band}_10m.jp2" for band in ("B02", "B03", "B8A")]
    naming = find_naming(names(*bands, mask))
    assert [channel_name(affix).removeprefix("R10m_") for affix in naming.images] == ["B02_10m", "B03_10m", "B8A_10m"]
    layout = layout_of(naming)
    (pattern,) = layout["patterns"]
    matches = [match for name in names(*bands, mask) if (match := re.fullmatch(pattern, name.whole))]
    assert len(matches) == len(CASES)
    seventh = next(match for match in matches if match["case"] == "S7")
    assert seventh[0] == bands[0].format(k=7)
    others = [place.format(**seventh.groupdict()) for place in layout["extra_channels"].values()]
    assert others == [band.format(k=7) for band in bands[1:]]
    assert layout["mask"].format(case="S7") == mask.format(k=7)


def test_unrelated_names_are_not_paired():
    assert (
        find_naming([Name(f"images/a{k}.png") for k in CASES] + [Name(f"masks/b{k + 50}.png") for k in CASES]) is None
    )


def test_equal_names_in_different_folders_are_not_mixed_up():
    found = [Name(f"p{p}/{kind}/{k}.png") for p in (1, 2) for kind in ("images", "masks") for k in CASES]
    with pytest.raises(ValueError, match="cases in different folders have the same name"):
        layout_of(find_naming(found))
