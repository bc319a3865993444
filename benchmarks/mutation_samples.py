"""Small valid files of every format that the program reads, for mutations.py."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import rasterio
import SimpleITK as sitk
from mutation_kind import Kind
from mutation_labels import LABELS
from mutation_networks import NETWORKS
from mutation_packing import packed, packed_npz, unpacked_npz, with_checksums
from mutation_texts import TEXTS
from PIL import Image
from rasterio.transform import Affine

from mlla_seg.data.formats.geotiff import open_rasters
from mlla_seg.data.formats.registry import read_image, read_mask

CUBE = np.arange(6 * 5 * 4, dtype=np.int16).reshape(6, 5, 4) * 9 - 500
COLOURS = np.random.default_rng(0).integers(0, 255, (12, 10, 3), dtype=np.uint8)
PLACE = {"transform": Affine(0.5, 0, 500_000, 0, -0.5, 4_000_000), "crs": "EPSG:32636"}


def image_kind(name: str, file: str, write: Callable[[Path], object], **packing: Callable[[bytes], bytes]) -> Kind:
    """Return a kind of image file, which is read as an image and as a mask."""

    def read(folder: Path) -> None:
        path = folder / file
        path = path.parent if path.parent != folder else path
        read_image(path, "acquired")
        read_mask(path)

    return Kind(name, file, lambda folder: write(folder / file), read, **packing)


def raster_kind(name: str, file: str, write: Callable[[Path], object], opened: str = "") -> Kind:
    """Return a kind of raster, which is read whole and by windows."""

    def read(folder: Path) -> None:
        path = folder / (opened or file)
        read_image(path)
        read_mask(path)
        with open_rasters([path]) as raster:
            height, width = raster.shape
            raster.read(height // 2, 0, max(1, height // 4), min(width, 9))
            _ = raster.ground, raster.place, raster.dtype

    return Kind(name, file, lambda folder: write(folder / file), read)


def write_nifti(path: Path) -> None:
    image = nib.Nifti1Image(CUBE, np.diag([-0.7, -0.8, 2.5, 1]))
    image.header.set_slope_inter(2, -10)
    image.to_filename(path)


def write_itk(path: Path) -> None:
    image = sitk.GetImageFromArray(CUBE)
    image.SetSpacing((0.7, 0.8, 2.5))
    sitk.WriteImage(image, str(path), useCompression=path.stem == "packed")


def write_h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("image", data=CUBE.astype(np.float32), chunks=(2, 5, 4), compression="gzip", shuffle=True)
        file["label"] = CUBE > 0


def write_npz(path: Path) -> None:
    np.savez_compressed(path, image=CUBE, label=CUBE)


def write_dicom(path: Path, frames: int = 1) -> None:
    """Write a series of three slices, or one file with as many frames."""
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

    path.parent.mkdir()
    for k in range(3 if frames == 1 else 1):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = EnhancedCTImageStorage if frames > 1 else CTImageStorage
        meta.MediaStorageSOPInstanceUID = f"1.2.3.{k}"
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
        data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        data.SeriesInstanceUID, data.StudyInstanceUID, data.Modality = "1.2.3", "1.2.4", "CT"
        data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 5, 4, 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.RescaleSlope, data.RescaleIntercept, data.PixelData = 1, -1024, CUBE[k : k + frames].tobytes()
        if frames == 1:
            data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 3 * k], [1, 0, 0, 0, 1, 0]
            data.PixelSpacing, data.SliceThickness = [0.8, 0.7], 3
        else:
            data.NumberOfFrames = frames
            data.PerFrameFunctionalGroupsSequence = [_group(n) for n in range(frames)]
            data.SharedFunctionalGroupsSequence = [Dataset()]
        name = path if k == 1 or frames > 1 else path.with_name(f"{k}.dcm")
        data.save_as(name, enforce_file_format=True)


def _group(number: int) -> Any:
    from pydicom.dataset import Dataset

    group, position, orientation, measures = Dataset(), Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient, orientation.ImageOrientationPatient = [0, 0, 3 * number], [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SliceThickness = [0.8, 0.7], 3
    group.PlanePositionSequence, group.PlaneOrientationSequence = [position], [orientation]
    group.PixelMeasuresSequence = [measures]
    return group


def write_photo(mode: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        grey = COLOURS[..., 0]
        pixels = {"RGB": COLOURS, "L": grey, "I;16": grey.astype(np.uint16) * 200}.get(mode)
        image = Image.fromarray(COLOURS).quantize(9) if pixels is None else Image.fromarray(pixels)
        image.save(path, **({"exif": exif()} if path.suffix == ".jpg" else {}))

    return write


def exif() -> Image.Exif:
    turned = Image.Exif()
    turned[0x0112] = 6
    return turned


def write_raster(**profile: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        pixels = np.moveaxis(np.tile(COLOURS, (3, 3, 1)), 2, 0)
        facts = {"driver": "GTiff", "count": 3, "height": 36, "width": 30, "dtype": "uint8", **PLACE, **profile}
        with rasterio.open(path, "w", **facts) as file:
            file.write(pixels[: facts["count"]])
            file.update_tags(copyright="https://example.org")
            file.descriptions = ("red", "green", "blue")[: facts["count"]]
            if "tiled" in profile:
                file.write_mask(pixels[0] > 9)

    return write


def write_vrt(path: Path) -> None:
    write_raster()(path.with_name("scene.tif"))
    bands = "".join(
        f"<VRTRasterBand dataType='Byte' band='{band}'><NoDataValue>0</NoDataValue><SimpleSource>"
        f"<SourceFilename relativeToVRT='1'>scene.tif</SourceFilename><SourceBand>{band}</SourceBand>"
        "<SrcRect xOff='0' yOff='0' xSize='30' ySize='36'/><DstRect xOff='0' yOff='0' xSize='30' ySize='36'/>"
        "</SimpleSource></VRTRasterBand>"
        for band in (1, 2, 3)
    )
    place = "500000, 0.5, 0, 4000000, 0, -0.5"
    path.write_text(
        f"<VRTDataset rasterXSize='30' rasterYSize='36'><SRS>EPSG:32636</SRS><GeoTransform>{place}</GeoTransform>"
        f"{bands}</VRTDataset>"
    )


def write_pam(path: Path) -> None:
    write_raster()(path.with_name("scene.tif"))
    path.write_text(
        "<PAMDataset><SRS>EPSG:32636</SRS><GeoTransform>5, 0.5, 0, 4, 0, -0.5</GeoTransform><Metadata>"
        "<MDI key='a'>b</MDI></Metadata><PAMRasterBand band='1'><Description>red</Description></PAMRasterBand>"
        "</PAMDataset>"
    )


KINDS = {
    kind.name: kind
    for kind in (
        image_kind("nii", "a.nii", write_nifti),
        image_kind("nii.gz", "a.nii.gz", write_nifti, unpack=gzip.decompress, pack=packed),
        image_kind("nrrd", "a.nrrd", write_itk),
        image_kind("nrrd packed", "packed.nrrd", write_itk),
        image_kind("nhdr", "a.nhdr", write_itk),
        image_kind("mha", "a.mha", write_itk),
        image_kind("mha packed", "packed.mha", write_itk),
        image_kind("mhd", "a.mhd", write_itk),
        image_kind("dicom", "series/1.dcm", write_dicom),
        image_kind("dicom frames", "series/1.dcm", lambda path: write_dicom(path, 3)),
        image_kind("h5", "a.h5", write_h5),
        image_kind("npz", "a.npz", write_npz, unpack=unpacked_npz, pack=packed_npz),
        *(
            image_kind(f"png {mode}", "a.png", write_photo(mode), pack=with_checksums)
            for mode in ("L", "RGB", "P", "I;16")
        ),
        image_kind("jpg", "a.jpg", write_photo("RGB")),
        image_kind("bmp", "a.bmp", write_photo("RGB")),
        raster_kind("tif", "a.tif", write_raster(nodata=3)),
        raster_kind("tif tiled", "a.tif", write_raster(tiled=True, blockxsize=16, blockysize=16, compress="deflate")),
        raster_kind("tif lzw", "a.tif", write_raster(compress="lzw", interleave="pixel", BIGTIFF="YES")),
        raster_kind("jp2", "a.jp2", write_raster(driver="JP2OpenJPEG")),
        raster_kind("vrt", "a.vrt", write_vrt),
        raster_kind("aux.xml", "scene.tif.aux.xml", write_pam, "scene.tif"),
        *TEXTS,
        *LABELS,
        *NETWORKS,
    )
}
