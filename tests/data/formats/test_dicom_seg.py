"""DICOM segmentations: segments in the place of their series, with references to its images and with codes."""

from __future__ import annotations

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from dicom_samples import DICOM_SHAPE, DICOM_SPACING, dicom_series, enhanced_series
from hostile import NAMES
from mlla_seg.data.card import load_card
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.formats.classes import ClassInfo, Code
from mlla_seg.data.formats.registry import mask_path, read_image, write_mask
from mlla_seg.errors import InputError
from samples import classes_of

CLASSES = classes_of(["background", "liver", "left kidney"], [(0, 0, 0), (200, 60, 40), (40, 60, 200)])


@pytest.fixture
def series(tmp_path):
    return dicom_series(tmp_path / "ct")


def test_dicom_segmentation_is_that_of_the_series(tmp_path):
    series = dicom_series(tmp_path / "ct", angle=0.3)
    picture = read_image(series, "coronal")
    labels = np.where(picture.array[:, 0] > 1000, 1, np.where(picture.array[:, 0] > 800, 2, 0))
    output = mask_path(series, tmp_path, "dicom-seg")
    write_mask(output, labels, CLASSES, series, "coronal")
    segmentation = highdicom.seg.segread(output)
    assert [segment.segment_label for segment in map(segmentation.get_segment_description, (1, 2))] == [
        "liver",
        "left kidney",
    ]
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(series))
    hounsfield = sitk.GetArrayFromImage(sitk.ReadImage(files))
    uids = [pydicom.dcmread(path).SOPInstanceUID for path in files]
    assert segmentation.FrameOfReferenceUID == pydicom.dcmread(files[0]).FrameOfReferenceUID
    frames = segmentation.get_pixels_by_source_instance(uids, combine_segments=True, ignore_spatial_locations=True)
    np.testing.assert_array_equal(frames, np.where(hounsfield > 1000, 1, np.where(hounsfield > 800, 2, 0)))


@pytest.mark.parametrize("names", [["StudyID"], ["PatientSex", "PatientBirthDate", "SliceThickness"]])
def test_what_anonymisers_remove_is_written_empty(series, names):
    for path in series.iterdir():
        data = pydicom.dcmread(path)
        for name in names:
            if name in data:
                delattr(data, name)
        data.save_as(path)
    output = series.parent / "mask.dcm"
    write_mask(output, np.ones(DICOM_SHAPE, np.uint8), CLASSES, series)
    written = highdicom.seg.segread(output)
    assert written.pixel_array.all()
    for name in names:
        assert name == "SliceThickness" or not getattr(written, name)
    measures = written.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SliceThickness == pytest.approx(DICOM_SPACING[0])


def test_a_series_without_a_frame_of_reference_has_no_segmentation(series):
    for path in series.iterdir():
        data = pydicom.dcmread(path)
        del data.FrameOfReferenceUID
        data.save_as(path)
    with pytest.raises(InputError, match=r"ct: its images have no FrameOfReferenceUID, .* Write --format nii\.gz"):
        write_mask(series.parent / "mask.dcm", np.ones(DICOM_SHAPE, np.uint8), CLASSES, series)


def test_segmentation_of_nothing_can_be_written(series):
    output = series.parent / "empty.dcm"
    write_mask(output, np.zeros(DICOM_SHAPE, np.uint8), CLASSES, series)
    assert not highdicom.seg.segread(output).pixel_array.any()


def test_dicom_segmentation_needs_a_series(tmp_path):
    np.savez(tmp_path / "ct.npz", image=np.zeros(DICOM_SHAPE))
    with pytest.raises(InputError, match=r"ct\.npz: a DICOM segmentation must reference a DICOM series"):
        write_mask(tmp_path / "mask.dcm", np.zeros(DICOM_SHAPE), CLASSES, tmp_path / "ct.npz")


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per frame"])
def test_segmentation_of_a_multi_frame_file_refers_to_its_frames(tmp_path, shared):
    series = enhanced_series(tmp_path / "ct", shared, order=[2, 0, 1, 5, 4, 3])
    picture = read_image(series)
    labels = (picture.array[:, 0] > 300).astype(np.uint8) + (picture.array[:, 0] > 700)
    write_mask(tmp_path / "mask.dcm", labels, CLASSES, series)
    written = highdicom.seg.segread(tmp_path / "mask.dcm")
    source = pydicom.dcmread(series / "enhanced.dcm")
    assert written.get_source_image_uids() == [
        (source.StudyInstanceUID, source.SeriesInstanceUID, source.SOPInstanceUID)
    ]
    frames = written.get_pixels_by_source_frame(
        source.SOPInstanceUID, range(1, 7), combine_segments=True, ignore_spatial_locations=True
    )
    np.testing.assert_array_equal(frames, labels[[2, 0, 1, 5, 4, 3]])
    volume = written.get_volume(combine_segments=True)  # by positions
    np.testing.assert_allclose(np.sort(np.abs(volume.spacing)), sorted(DICOM_SPACING), rtol=1e-5)


def test_segments_have_the_codes_of_the_card_or_private_ones(series, tmp_path):
    classes = [ClassInfo("background", (0, 0, 0), 0), ClassInfo("liver", (1, 2, 3), 1, Code("10200004", "Liver"))]
    classes.append(ClassInfo("lesion", (1, 2, 3), 2))
    write_mask(tmp_path / "mask.dcm", np.ones(DICOM_SHAPE, np.uint8), classes, series)
    written = highdicom.seg.segread(tmp_path / "mask.dcm")
    types = [segment.SegmentedPropertyTypeCodeSequence[0] for segment in written.SegmentSequence]
    assert [(code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning) for code in types] == [
        ("10200004", "SCT", "Liver"),
        ("class2", "99MLLA_SEG", "lesion"),
    ]


def test_codes_travel_from_the_card_to_a_checkpoint():
    card = load_card("amos_ct")
    spec = DataSpec(card.channels, card.class_infos)
    assert DataSpec.from_dict(spec.to_dict()) == spec
    assert spec.classes[1].code == Code("78961009", "Spleen", "SCT") and spec.classes[0].code is None
    with pytest.raises(InputError, match=r"spec: code of class 0 is '1', expected \{value: \.\.\., meaning"):
        DataSpec.from_dict({"channels": ["CT"], "classes": [{"name": "liver", "code": "1"}]})


@pytest.mark.parametrize("name", ["acdc", "amos_ct", "atlas23", "btcv", "flare22", "synapse", "word"])
def test_shipped_codes_are_those_of_the_dicom_standard(name):
    """Those that pydicom lists; it lists no kidney with a side and no myocardium of both ventricles."""
    from pydicom.sr._concepts_dict import concepts

    known = {value: meaning.lower() for entry in concepts["SCT"].values() for value, (meaning, _) in entry.items()}
    sides = {"18639004": "left kidney", "9846003": "right kidney", "74281007": "myocardium"}
    adjectives = {"spleen": "splenic", "aorta": "aortic", "pancreas": "pancreatic"}
    adjectives |= {
        "left ventricle": "left ventricular",
        "right ventricle": "right ventricular",
        "adrenal gland": "adrenal",
    }
    for entry in load_card(name).class_infos:
        if entry.code:
            meaning = entry.code.meaning.lower()
            assert adjectives.get(meaning, meaning) in {**known, **sides}[entry.code.value]


def test_every_name_of_a_class_can_be_a_label(series):
    output = series.parent / "mask.dcm"
    names = ["background", *NAMES]
    write_mask(output, np.ones(DICOM_SHAPE, np.uint8), classes_of(names), series)
    labels = [segment.SegmentLabel for segment in highdicom.seg.segread(output).SegmentSequence]
    assert len(labels) == len(NAMES)
    for label, name in zip(labels, NAMES, strict=True):
        # the character set is that of the series, here Latin-1
        assert label == name.replace("\\", "/")[:64].encode("latin-1", "replace").decode("latin-1")
