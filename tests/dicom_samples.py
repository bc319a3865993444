"""Tiny DICOM series as scanners write them."""

from __future__ import annotations

import numpy as np

DICOM_SHAPE = (6, 10, 12)
"""Slices, rows, columns of ``dicom_series``."""
DICOM_SPACING = (2.5, 0.8, 0.7)


def dicom_series(folder, tilt=0.0, description="abdomen", angle=0.0):
    """A CT as written by scanners, whose values count its voxels; file names are not in slice order."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    rows = np.array([np.cos(angle), np.sin(angle), 0.0])
    columns = np.array([-np.sin(angle), np.cos(angle), 0.0])
    for k in range(DICOM_SHAPE[0]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        data.SeriesInstanceUID, data.StudyInstanceUID, data.FrameOfReferenceUID = series, study, frame
        data.PatientName, data.PatientID, data.PatientBirthDate, data.PatientSex = "A^B", "1", "", "O"
        data.StudyDate, data.StudyTime, data.AccessionNumber, data.StudyID = "20240101", "120000", "", "1"
        data.ReferringPhysicianName, data.Manufacturer = "", "test"
        data.Modality, data.SeriesNumber, data.InstanceNumber = "CT", 1, k + 1
        data.SeriesDescription, data.PositionReferenceIndicator = description, ""
        data.ImagePositionPatient = [-50.0, 20.0 + tilt * k, 100.0 + DICOM_SPACING[0] * k]
        data.ImageOrientationPatient = [*rows, *columns]
        data.PixelSpacing, data.SliceThickness = list(DICOM_SPACING[1:]), DICOM_SPACING[0]
        data.Rows, data.Columns = DICOM_SHAPE[1:]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.RescaleSlope, data.RescaleIntercept = 2, -1024
        values = np.arange(np.prod(DICOM_SHAPE)).reshape(DICOM_SHAPE)[k]
        data.PixelData = ((values * 2 + 1024) // 2).astype(np.int16).tobytes()
        data.save_as(folder / f"{(k * 5) % 7:02d}{'.dcm' if k % 2 else ''}", enforce_file_format=True)
    return folder


def enhanced_series(folder, shared=True, order=None):
    """The series of :func:`dicom_series` as one enhanced multi-frame file, each frame with an intercept of its own.

    Frames are stored in ``order``; without ``shared`` every frame repeats the orientation and the pixel spacing.
    """
    import pydicom
    from pydicom.dataset import Dataset
    from pydicom.uid import EnhancedCTImageStorage

    slices = [pydicom.dcmread(path) for path in dicom_series(folder).iterdir()]
    slices.sort(key=lambda data: data.ImagePositionPatient[2])
    slices = [slices[k] for k in order or range(len(slices))]
    for path in folder.iterdir():
        path.unlink()

    def group(**sequences):
        item = Dataset()
        for keyword, tags in sequences.items():
            inner = Dataset()
            for key, value in tags.items():
                setattr(inner, key, value)
            setattr(item, keyword, [inner])
        return item

    first = slices[0]
    common = dict(
        PlaneOrientationSequence={"ImageOrientationPatient": first.ImageOrientationPatient},
        PixelMeasuresSequence={"PixelSpacing": first.PixelSpacing, "SliceThickness": first.SliceThickness},
    )
    data = first
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    data.NumberOfFrames = len(slices)
    data.SharedFunctionalGroupsSequence = [group(**common) if shared else Dataset()]
    data.PerFrameFunctionalGroupsSequence = [
        group(
            PlanePositionSequence={"ImagePositionPatient": one.ImagePositionPatient},
            PixelValueTransformationSequence={"RescaleSlope": 2, "RescaleIntercept": one.RescaleIntercept + k},
            FrameContentSequence={"FrameAcquisitionNumber": k + 1},
            **({} if shared else common),
        )
        for k, one in enumerate(slices)
    ]
    data.PixelData = b"".join(one.PixelData for one in slices)
    keywords = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")
    for keyword in (*keywords, "RescaleSlope", "RescaleIntercept"):
        delattr(data, keyword)
    data.save_as(folder / "enhanced.dcm", enforce_file_format=True)
    return folder
