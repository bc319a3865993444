"""Headers that claim more than their file holds, or than there is memory, are refused before any is allocated."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
import zlib

import h5py
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from dicom_samples import dicom_series
from mlla_seg.data.formats import claims
from mlla_seg.data.formats.claims import free_memory, require_room
from mlla_seg.data.formats.registry import read_image
from mlla_seg.errors import InputError
from samples import write_array, write_nifti

CUBE = np.arange(64, dtype=np.int16).reshape(4, 4, 4)
HUGE = 30_000


def npz(path, dtype="<f8", shape="(1000000, 1000000)"):
    content = io.BytesIO()
    np.lib.format.write_array(content, CUBE)
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", b"\x93NUMPY\x01\0" + struct.pack("<H", len(head) + 1) + head + b"\n" + bytes(200))


def nifti(path, axes=(3, HUGE, HUGE, HUGE, 1, 1, 1, 1)):
    write_nifti(path, CUBE)
    content = path.read_bytes()
    path.write_bytes(content[:40] + struct.pack("<8h", *axes) + content[56:])


def packed_nifti(path):
    nifti(path.with_suffix(""))
    compressor = zlib.compressobj(wbits=31)
    path.write_bytes(compressor.compress(path.with_suffix("").read_bytes()) + compressor.flush())


def itk(path):
    sitk.WriteImage(sitk.GetImageFromArray(CUBE), str(path))
    content = path.read_bytes().replace(b"sizes: 4 4 4", b"sizes: 30000 30000 30000")
    path.write_bytes(content.replace(b"DimSize = 4 4 4", b"DimSize = 30000 30000 30000"))


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(path):
    size = chunk(b"IHDR", struct.pack(">IIBBBBB", 13_000, 13_000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + size + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b""))


def tif(path):
    Image.fromarray(np.ones((8, 8), np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", content, 4)
    for k in range(struct.unpack_from("<H", content, start)[0]):
        if struct.unpack_from("<H", content, start + 2 + 12 * k)[0] in (256, 257, 278):  # width, height, rows per strip
            struct.pack_into("<HII", content, start + 4 + 12 * k, 4, 1, 2**31 - 1)
    path.write_bytes(content)


def vrt(path):
    path.write_text(f"<VRTDataset rasterXSize='{10**9}' rasterYSize='{10**9}'><VRTRasterBand band='1'/></VRTDataset>")


def h5(path):
    with h5py.File(path, "w") as file:  # none of its chunks is stored
        file.create_dataset("image", (10**6, 10**4, 10**4), "f4", chunks=(1, 100, 100))


@pytest.mark.parametrize(
    ("name", "write", "claim", "held"),
    [
        ("a.npz", npz, "1000000 x 1000000 values of 8 bytes (8.0 TB)", "bytes of file cannot hold"),
        ("a.nii", nifti, "30000 x 30000 x 30000 values of 2 bytes (54.0 TB)", "128 bytes of file cannot hold"),
        ("a.nii.gz", packed_nifti, "30000 x 30000 x 30000 values of 2 bytes (54.0 TB)", "of file cannot hold"),
        ("a.nrrd", itk, "30000 x 30000 x 30000 x 1 values of 2 bytes (54.0 TB)", "of file cannot hold"),
        ("a.mha", itk, "30000 x 30000 x 30000 x 1 values of 2 bytes (54.0 TB)", "of file cannot hold"),
        ("a.png", png, "3 x 13000 x 13000 values of 1 byte (0.5 GB)", "bytes of file cannot hold"),
        ("a.tif", tif, "1 x 2147483647 x 2147483647 values of 1 byte (4.6 EB)", "of file cannot hold"),
        ("a.vrt", vrt, "1 x 1000000000 x 1000000000 values of 1 byte (1.0 EB)", "of file cannot hold"),
        ("a.h5", h5, "1000000 x 10000 x 10000 values of 4 bytes (400.0 TB)", "of memory are free"),
    ],
)
def test_what_a_header_claims_is_not_allocated(tmp_path, name, write, claim, held):
    write(tmp_path / name)
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            read_image(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"{tmp_path / name}: its header claims {claim}")
    assert held in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_dicom_slice_of_an_absurd_size_is_refused(tmp_path):
    import pydicom

    dicom_series(tmp_path / "series")
    for path in (tmp_path / "series").iterdir():
        data = pydicom.dcmread(path)
        data.Rows = data.Columns = 65_535
        data.save_as(path)
    with pytest.raises(
        InputError, match=r"its header claims \d+ x 65535 x 65535 values of 4 bytes .*, which .* of file cannot hold"
    ):
        read_image(tmp_path / "series")


@pytest.mark.parametrize("axes", [(3, -4, 4, 4, 1, 1, 1, 1), (7, 2, 2, 2, 2, 2, 2, 1), (3, 0, 4, 4, 1, 1, 1, 1)])
def test_impossible_axes_of_a_nifti_are_one_line(tmp_path, axes):
    nifti(tmp_path / "a.nii", axes)
    with pytest.raises(InputError, match=r"a\.nii: .*(claims a size of|found shape|is empty)"):
        read_image(tmp_path / "a.nii")


def test_objects_are_not_loaded(tmp_path):
    np.savez(tmp_path / "a.npz", image=np.array([[print, None]]))
    with pytest.raises(InputError, match=r"a\.npz: image\.npy holds Python objects or texts\. .*could run code"):
        read_image(tmp_path / "a.npz")
    write_array(tmp_path / "a.h5", image=np.array([[b"x", b"yyy"]], object))
    with pytest.raises(InputError, match=r"a\.h5: /image holds Python objects or texts"):
        read_image(tmp_path / "a.h5")


def test_values_in_other_hdf5_files_are_refused(tmp_path):
    write_array(tmp_path / "secret.h5", image=CUBE)
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["image"] = h5py.ExternalLink("secret.h5", "image")
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout((4, 4, 4), "i2")
        layout[:] = h5py.VirtualSource(tmp_path / "secret.h5", "image", (4, 4, 4))
        file.create_virtual_dataset("image", layout)
    with h5py.File(tmp_path / "stored.h5", "w") as file:
        file.create_dataset("image", (4, 4), "u1", external=[("/etc/passwd", 0, 16)])
    with pytest.raises(InputError, match=r"link\.h5: image is a link to another place"):
        read_image(tmp_path / "link.h5")
    with pytest.raises(InputError, match=r"virtual\.h5: the values of image lie in another file, .*secret\.h5"):
        read_image(tmp_path / "virtual.h5")
    with pytest.raises(InputError, match=r"stored\.h5: the values of image lie in another file, /etc/passwd"):
        read_image(tmp_path / "stored.h5")


def test_a_large_photo_is_read_and_a_huge_one_is_to_be_a_geotiff(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for size in (14, 15):
        Image.fromarray(np.zeros((size, size), np.uint8)).save(tmp_path / f"{size}.png")
    assert read_image(tmp_path / "14.png").array.shape == (1, 1, 14, 14)  # PIL warns from 100 pixels
    with pytest.raises(InputError, match=r"too many pixels for a photo .*Save it as a GeoTIFF"):
        read_image(tmp_path / "15.png")


def test_what_is_claimed_must_fit_the_file_and_the_memory(monkeypatch):
    monkeypatch.setattr(claims, "free_memory", lambda: 1000)
    require_room("a", (10, 10), 8, held=800)
    require_room("a", (10, 10), 8, held=1, most=1000)
    require_room("a", (1000, 1000), 8, held=8, most=10**6, whole=False)
    with pytest.raises(InputError, match=r"10 x 10 values of 8 bytes \(800 bytes\), which 799 bytes of file cannot"):
        require_room("a", (10, 10), 8, held=799)
    with pytest.raises(InputError, match=r"\(2 kB\), and its file has 2 kB; 1 kB of memory are free"):
        require_room("a", (10, 20), 8, held=2000)
    with pytest.raises(InputError, match=r"a: its header claims a size of 10 x -1\."):
        require_room("a", (10, -1), 8)


def test_memory_of_a_container_and_of_the_process_is_that_of_their_limits(tmp_path, monkeypatch):
    assert 2**20 < free_memory() < 2**50
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("4000\n")
    (tmp_path / "memory.stat").write_text("anon 1000\nfile 3000\n")
    monkeypatch.setattr(claims, "GROUPS", tmp_path)
    assert free_memory() == 4000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory() > 4000
