"""Volumes with a position in the patient: NIfTI, and NRRD and MetaImage through SimpleITK.

Files store voxels along axes of their own. An affine maps voxel indices to millimetres (right, anterior, superior); ITK
and DICOM use (left, posterior, superior), so two signs change. A volume is reoriented so that its slices, rows and
columns follow the plane (see ``planes.PLANES``), and a mask is reoriented back before it is written.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlla_seg.data.formats.claims import ANY, DEFLATE, require_room
from mlla_seg.data.formats.headers import nifti_affine, odd_size, require_affine, sheared, steps_of
from mlla_seg.data.formats.itk_doubts import header_doubts
from mlla_seg.data.formats.itk_headers import CHUNK, require_whole
from mlla_seg.data.formats.itk_safety import require_sound
from mlla_seg.data.formats.picture import Array, Picture, compact
from mlla_seg.data.formats.planes import ACQUIRED, ACQUIRED_PLANES, PLANES
from mlla_seg.errors import InputError

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd", ".seg.nrrd")
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Converts (right, anterior, superior) to (left, posterior, superior) and back."""
TEXT = 8
"""Bytes of a value that one character may stand for, in an NRRD whose values are written as text."""
COARSER = 1.05
"""Minimum ratio of the coarsest spacing to the others; scanners round isotropic spacings."""


@dataclass(frozen=True)
class Geometry:
    """Voxel grid of a file."""

    shape: tuple[int, int, int]
    """Voxels along the file's own axes."""
    affine: Array
    """``(4, 4)`` from voxel indices to millimetres (right, anterior, superior)."""
    notes: tuple[str, ...] = ()
    """Notes for the user on how the affine was determined."""
    stored: Array | None = None
    """Affine that other programs read from the same header, if it differs."""


def turn_to_plane(array: Array, grid: Geometry, plane: str) -> Picture:
    """Reorient a file's voxels to slices of a plane.

    Args:
        array: ``(I, J, K)``, or ``(I, J, K, C)`` with channels last.
        grid: Geometry of the file.
        plane: See :func:`axes_of`.
    """
    from nibabel import orientations

    axes = axes_of(grid, plane)
    turn = orientations.ornt_transform(orientations.io_orientation(grid.affine), orientations.axcodes2ornt(axes))
    inverse = orientations.inv_ornt_aff(turn, grid.shape)
    turned = grid.affine @ inverse
    stored = None if grid.stored is None else grid.stored @ inverse
    slices, rows, columns = map(float, steps_of(turned))
    array = orientations.apply_orientation(array, turn)
    array = array[:, None] if array.ndim == 3 else np.moveaxis(array, 3, 1)
    return Picture(compact(array), (slices, rows, columns), turned, axes, notes=grid.notes, stored=stored)


def turn_back(mask: Array, grid: Geometry, plane: str) -> Array:
    """Reorient a mask ``(S, H, W)`` of a plane to the axes of its source file, ``(I, J, K)``."""
    from nibabel import orientations

    back = orientations.ornt_transform(
        orientations.axcodes2ornt(axes_of(grid, plane)), orientations.io_orientation(grid.affine)
    )
    return np.ascontiguousarray(orientations.apply_orientation(mask, back)).reshape(grid.shape)


def axes_of(grid: Geometry, plane: str) -> str:
    """Return the directions of slices, rows and columns of a plane in a volume, such as ``SPL``.

    Args:
        grid: Geometry of the volume.
        plane: A name in ``PLANES``; ``acquired`` for slices along the coarsest axis, or axial ones if there is none; or
            the directions themselves.
    """
    if plane != ACQUIRED:
        return PLANES.get(plane, plane)
    coarsest = coarsest_axis(steps_of(grid.affine), grid.shape)
    if coarsest is None:
        return PLANES["axial"]
    from nibabel import orientations

    return ACQUIRED_PLANES[int(orientations.io_orientation(grid.affine)[coarsest, 0])]


def coarsest_axis(steps: Iterable[float], shape: Sequence[int]) -> int | None:
    """Return the axis along which a volume was acquired: the only one with a single voxel, else the coarsest.

    None if two or three axes are equally coarse.
    """
    single = [axis for axis, count in enumerate(shape) if count == 1]
    if len(single) == 1:
        return single[0]
    (largest, axis), (second, _), _ = sorted(((step, axis) for axis, step in enumerate(steps)), reverse=True)
    return axis if largest > COARSER * second else None


def read_nifti(path: Path, plane: str, keys: Sequence[str]) -> Picture:
    """Read a NIfTI with 2 or 3 axes, or 4 or 5 with channels last; integers without scaling keep their type."""
    import nibabel as nib

    image = nib.load(path)
    stored = image.dataobj
    packed = path.name.lower().endswith(".gz")
    held = path.stat().st_size - (0 if packed else stored.offset)
    require_room(path, image.shape, image.get_data_dtype().itemsize, held, DEFLATE if packed else 1)
    if not packed:
        return picture_of_nibabel(image, plane, str(path))
    with gzip.open(path) as stream:
        files = {"image": nib.FileHolder(str(path), stream)}
        picture = picture_of_nibabel(type(image).from_file_map(files, mmap=False), plane, str(path))
        while stream.read(CHUNK):  # up to the checksum at the end, which nibabel does not reach
            pass
    return picture


def picture_of_nibabel(image: Any, plane: str, name: str) -> Picture:
    """Convert a nibabel image to slices of a plane."""
    stored = image.dataobj  # array proxy of a file, or an array
    scaled = (getattr(stored, "slope", 1), getattr(stored, "inter", 0)) != (1, 0)
    array = image.get_fdata(dtype=np.float32, caching="unchanged") if scaled else np.asarray(stored)
    if array.dtype.names:  # colours, which NIfTI stores as one value of several bytes
        array = np.stack([array[name] for name in array.dtype.names], axis=-1)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim == 5 and array.shape[3] == 1:  # ITK stores several values of a voxel along a fifth axis
        array = array[:, :, :, 0]
    if array.ndim not in (3, 4):
        raise InputError(f"{name}: expected a volume with 3 axes, or 4 with channels last, found shape {array.shape}.")
    return turn_to_plane(array, geometry_of_nibabel(image, name), plane)


def read_itk(path: Path, plane: str, keys: Sequence[str]) -> Picture:
    """Read an image with 2 or 3 axes; several values per voxel or a fourth axis become channels."""
    voxels = require_sound(path)
    reader = itk_reader(path)
    components = reader.GetNumberOfComponents()
    itemsize = simple_itk(path).Image([1, 1], reader.GetPixelID(), components).GetSizeOfPixelComponent()
    held = sum(file.stat().st_size for file in voxels.files)
    most = {"gzip": DEFLATE, "bzip2": ANY}.get(voxels.compression, TEXT)
    require_room(path, (*reader.GetSize(), components), itemsize, held, most)
    require_whole(path)
    return _picture_of_itk(reader.Execute(), plane, itk_file_geometry(path, reader))


def itk_reader(path: Path) -> Any:
    """Return SimpleITK's reader of an NRRD or MetaImage, which has read its header; other formats are not tried."""
    reader = simple_itk(path).ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("MetaImageIO" if path.suffix.lower() in (".mha", ".mhd") else "NrrdImageIO")
    reader.ReadImageInformation()
    return reader


def picture_of_itk(image: Any, plane: str, name: str) -> Picture:
    """Convert a SimpleITK image to slices of a plane."""
    return _picture_of_itk(image, plane, geometry_of_itk(image, name))


def _picture_of_itk(image: Any, plane: str, grid: Geometry) -> Picture:
    sitk = simple_itk(None)
    array = sitk.GetArrayFromImage(image)  # axes in reverse order, channels last
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
    array = array.reshape((-1, 1, *array.shape[-2:]) if image.GetDimension() == 2 else (-1, *array.shape[-3:]))
    array = array.transpose(3, 2, 1, 0)  # (I, J, K, C)
    return turn_to_plane(array, grid, plane)


def itk_file_geometry(path: Path, reader: Any) -> Geometry:
    """Return the grid of an NRRD or MetaImage in millimetres, whatever the unit of its header, and doubts about it."""
    grid = geometry_of_itk(reader, str(path))
    factor, notes = header_doubts(path)
    if factor == 1:
        return replace(grid, notes=(*grid.notes, *notes, *odd_size(grid.affine, grid.shape)))
    affine = np.diag([factor, factor, factor, 1.0]) @ grid.affine
    return Geometry(grid.shape, affine, (*grid.notes, *notes), stored=grid.affine)


def geometry_of_nibabel(image: Any, name: str) -> Geometry:
    """Return the grid of a nibabel image; an image with two axes gets a third."""
    i, j, k = (*image.shape, 1)[:3]
    if not hasattr(image.header, "get_sform"):  # not a NIfTI, with a single affine
        require_affine(name, image.affine)
        return Geometry((i, j, k), image.affine, sheared(image.affine))
    affine, notes = nifti_affine(name, image.header)
    return Geometry((i, j, k), affine, notes, None if np.array_equal(affine, image.affine) else image.affine)


def geometry_of_itk(image: Any, name: str) -> Geometry:
    """Return the grid of a SimpleITK image or reader; an image with two axes gets a third axis with 1 mm spacing."""
    axes = image.GetDimension()
    count = min(axes, 3)
    matrix = np.eye(3)
    matrix[:count, :count] = np.reshape(image.GetDirection(), (axes, axes))[:count, :count]
    affine = np.eye(4)
    affine[:3, :3] = matrix * (*image.GetSpacing()[:count], 1.0)[:3]
    affine[:count, 3] = image.GetOrigin()[:count]
    i, j, k = (*image.GetSize()[:count], 1)[:3]
    require_affine(name, affine)
    return Geometry((i, j, k), LPS @ affine, sheared(affine))


def itk_geometry(affine: Array) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """Return origin, spacing and direction for SimpleITK of an affine to (right, anterior, superior)."""
    affine = LPS @ affine
    spacing = steps_of(affine)
    direction = affine[:3, :3] / spacing
    return tuple(affine[:3, 3].tolist()), tuple(spacing.tolist()), tuple(direction.ravel().tolist())


def simple_itk(path: Path | None) -> Any:
    """Import SimpleITK with its warnings disabled.

    Raises:
        InputError: It is not installed; names the extra.
    """
    try:
        import SimpleITK
    except ImportError as error:
        raise InputError(f"{path}: this format needs SimpleITK: pip install 'mlla_seg[medical]'") from error
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK
