"""Files of a DICOM folder: every one is a slice, said to be none, or damaged and named."""

from __future__ import annotations

import shutil

import numpy as np
import pydicom
import pytest
from pydicom.uid import UID, generate_uid

from dicom_samples import DICOM_SHAPE, dicom_series
from mlla_seg.data.formats.dicom_files import is_dicom, is_series
from mlla_seg.data.formats.registry import is_readable, read_image
from mlla_seg.errors import InputError


@pytest.fixture
def series(tmp_path):
    return dicom_series(tmp_path / "ct")


def in_order(folder):
    return sorted(folder.iterdir(), key=lambda path: pydicom.dcmread(path).InstanceNumber)


def rewrite(path, target=None, **tags):
    """Change tags of a file, or remove those that are None."""
    data = pydicom.dcmread(path)
    for keyword, value in tags.items():
        if value is None:
            delattr(data, keyword)
        else:
            setattr(data, keyword, value)
    if "SOPClassUID" in tags:
        data.file_meta.MediaStorageSOPClassUID = tags["SOPClassUID"]
    data.save_as(target or path)


def add_object(series, name, kind, **tags):
    """Put an object of another kind into the folder, without an image."""
    drop = dict.fromkeys(("PixelData", "Rows", "Columns", "ImagePositionPatient"))
    rewrite(in_order(series)[0], series / name, SOPClassUID=UID(kind), SOPInstanceUID=generate_uid(), **drop, **tags)


@pytest.mark.parametrize("place", [0, 3, 5], ids=["first", "middle", "last"])
@pytest.mark.parametrize("kept", [0, 100, 200, 600, 1100, -1, -100], ids=lambda kept: f"{kept} bytes")
def test_a_damaged_slice_is_an_error_that_names_it(series, place, kept):
    path = in_order(series)[place]
    content = path.read_bytes()
    path.write_bytes(content[:kept])
    with pytest.raises(InputError, match=rf"ct/{path.name}: .*Copy it again"):
        read_image(series)


@pytest.mark.filterwarnings("ignore")  # of pydicom, about UIDs that end early
def test_wherever_a_file_is_cut_its_slice_is_not_lost(series):
    """Also within a tag: the first half of a UID is no other kind of object."""
    path = in_order(series)[-1]
    content = path.read_bytes()
    for kept in range(0, len(content), 7):
        path.write_bytes(content[:kept])
        with pytest.raises(InputError, match=rf"ct/{path.name}: (is|its|has no) "):
            read_image(series)


def test_several_damaged_slices_are_counted(series):
    first, *_, last = in_order(series)
    first.write_bytes(b"")
    last.write_bytes(b"\0" * 500)
    with pytest.raises(InputError, match=r"\(2 files in this folder are damaged\)"):
        read_image(series)


@pytest.mark.parametrize("suffix", ["", ".dcm", ".DCM", ".IMA", ".123"])
@pytest.mark.parametrize("preamble", [True, False])
def test_names_and_the_preamble_do_not_matter(series, suffix, preamble):
    wanted = read_image(series)
    for k, path in enumerate(in_order(series)):
        path.rename(series / f"slice{k}{suffix}")
    if not preamble:
        for path in series.iterdir():
            data = pydicom.dcmread(path)
            data.file_meta, data.preamble = pydicom.dataset.FileMetaDataset(), None
            data.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
            assert is_dicom(path) and path.read_bytes()[128:132] != b"DICM"
    found = read_image(series)
    np.testing.assert_array_equal(found.array, wanted.array)
    np.testing.assert_allclose(found.affine, wanted.affine)
    damaged = series / f"slice0{suffix}"
    damaged.write_bytes(b"")
    with pytest.raises(InputError, match=r"slice0.*: is empty\. Copy it again"):
        read_image(series)


def test_files_of_other_programs_are_said(series):
    for name in ("Thumbs.db", ".DS_Store", "._0", "notes.txt", "README", "preview.png"):
        (series / name).write_bytes(b"text, no image " * 10)
    picture = read_image(series)
    assert picture.array.shape[0] == 6
    assert picture.notes == ("left out 6 files (not DICOM), such as .DS_Store",)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("1.2.840.10008.5.1.4.1.1.481.3", "RT Structure Set"),
        ("1.2.840.10008.5.1.4.1.1.481.2", "RT Dose"),
        ("1.2.840.10008.5.1.4.1.1.481.5", "RT Plan"),
        ("1.2.840.10008.5.1.4.1.1.88.67", "X-Ray Radiation Dose SR"),
        ("1.2.840.10008.5.1.4.1.1.66.4", "Segmentation"),
        ("1.2.840.10008.5.1.4.1.1.11.1", "Grayscale Softcopy Presentation State"),
        ("1.2.840.10008.5.1.4.1.1.88.59", "Key Object Selection Document"),
        ("1.2.840.10008.1.3.10", "Media Storage Directory"),
        ("1.2.840.10008.5.1.4.1.1.7", "Secondary Capture without a position"),
        ("1.3.12.2.1107.5.9.1", "private object without an image"),  # Siemens
    ],
)
def test_objects_that_are_no_images_are_said(series, tmp_path, kind, what):
    add_object(series, "other", kind)
    assert read_image(series).notes == (f"left out 1 file ({what}), such as other",)
    (tmp_path / "alone").mkdir()
    (series / "other").rename(tmp_path / "alone/other")
    assert is_series(series) and not is_series(tmp_path / "alone")
    with pytest.raises(InputError, match=rf"contains no DICOM image \(1 file \({what}\), such as other\)"):
        read_image(tmp_path / "alone")


@pytest.mark.parametrize("tags", [{"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, {"SeriesDescription": "Scout"}])
@pytest.mark.parametrize("uid", ["same", "other"])
def test_localisers_are_left_out_beside_a_volume_and_read_alone(series, tmp_path, tags, uid):
    tags |= {"SeriesInstanceUID": generate_uid()} if uid == "other" else {}
    rewrite(in_order(series)[0], series / "scout", ImageOrientationPatient=[1, 0, 0, 0, 0, -1], **tags)
    picture = read_image(series)
    assert picture.array.shape[0] == DICOM_SHAPE[0]
    assert picture.notes == ("left out 1 file (localiser), such as scout",)
    (tmp_path / "alone").mkdir()
    shutil.move(series / "scout", tmp_path / "alone/scout")
    assert is_readable(tmp_path / "alone")
    assert read_image(tmp_path / "alone").array.size == np.prod(DICOM_SHAPE[1:])


def test_images_of_another_series_without_a_position_are_left_out(series):
    rewrite(in_order(series)[0], series / "xray", SeriesInstanceUID=generate_uid(), ImagePositionPatient=None)
    assert read_image(series).notes == ("left out 1 file (of another series, without a position), such as xray",)


def test_a_copy_of_a_file_is_left_out(series):
    shutil.copy(in_order(series)[2], series / "copy (1)")
    picture = read_image(series)
    assert picture.array.shape[0] == 6
    assert picture.notes == ("left out 1 file (a copy of another), such as copy (1)",)
