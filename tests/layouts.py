"""Tiny data sets in the exact layouts of public downloads."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import rasterio
import rasterio.errors
import rasterio.transform
from PIL import Image

from mlla_seg.data.shipped import read_config
from mlla_seg.data.synthetic import phantom_volume, write_synapse_layout

DATASETS = Path(__file__).parents[1] / "datasets"


def split_numbers(card: str, split: str) -> list[str]:
    """Patients in a card's split list."""
    return (DATASETS / card / "splits" / f"{split}.txt").read_text().split()


def blobs(seed: int, slices: int, height: int, width: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Image ``(S, H, W)`` in 0..1 and label with every class; brightness increases with the class."""
    image, label = phantom_volume(slices, max(height, width), seed)
    label = (label[:, :height, :width] % num_classes).astype(np.uint8)
    label.ravel()[:num_classes] = np.arange(num_classes)
    return (label / num_classes + 0.05 * np.clip(image[:, :height, :width] / 300, -1, 1)).astype(np.float32), label


def synapse(root: Path) -> None:
    train, test = ([int(n) for n in split_numbers("synapse", split)] for split in ("train", "test"))
    write_synapse_layout(root, train, test, slices=2, size=32)


def acdc_ssl4mis(root: Path, patients: int = 3, slices_only: bool = False) -> None:
    """SSL4MIS: volumes and slices in h5, with scribbles."""
    (root / "ACDC_training_slices").mkdir(parents=True)
    (root / "ACDC_training_volumes").mkdir()
    numbers = [n for split in ("train", "val", "test") for n in split_numbers("acdc", split)[:patients]]
    for i, number in enumerate(numbers):
        image, label = blobs(i, 3, 36, 40, 4)
        strokes = np.where(np.arange(label.shape[2]) % 5 == 2, label, 4).astype(np.uint16)  # 4: unlabelled
        arrays = {"image": image, "label": label, "scribble": strokes}
        name = f"patient{number}_frame01"
        if not slices_only:
            with h5py.File(root / "ACDC_training_volumes" / f"{name}.h5", "w") as file:
                for key, array in arrays.items():
                    file[key] = array
        for s in range(3):
            with h5py.File(root / "ACDC_training_slices" / f"{name}_slice_{s}.h5", "w") as file:
                for key, array in arrays.items():
                    file[key] = array[s]


def acdc_transunet(root: Path) -> None:
    """TransUNet style: npz with keys img and label; folders are splits."""
    for split, number in (("train", 1), ("train", 3), ("valid", 19), ("test", 2)):
        (root / split).mkdir(parents=True, exist_ok=True)
        for phase in ("ED", "ES"):
            image, label = blobs(number, 3, 36, 40, 4)
            if split == "test":
                np.savez(root / split / f"case_{number:03d}_volume_{phase}.npz", img=image, label=label)
                continue
            for s in range(3):
                path = root / split / f"case_{number:03d}_slice{phase}_{s}.npz"
                np.savez(path, img=image[s], label=label[s])


def hippocampus(root: Path, version: int = 1, cases: int = 8) -> None:
    """MSD / nnU-Net v1 (labels: id -> name), or nnU-Net v2 (labels: name -> id, channels numbered)."""
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    names = ["background", "Anterior", "Posterior"]
    for i in range(cases):
        image, label = blobs(i, 6, 20, 14, 3)
        affine = np.diag([1.0, 1.0, 1.0, 1.0])
        name = f"hippocampus_{i:03d}"
        channel = "" if version == 1 else "_0000"
        volume = nib.Nifti1Image(np.moveaxis(image * 700, 0, 2).astype(np.float32), affine)
        volume.to_filename(root / "imagesTr" / f"{name}{channel}.nii.gz")
        nib.Nifti1Image(np.moveaxis(label, 0, 2), affine).to_filename(root / "labelsTr" / f"{name}.nii.gz")
    if version == 1:
        labels: dict = {"modality": {"0": "MRI"}, "labels": {str(k): name for k, name in enumerate(names)}}
    else:
        labels = {"channel_names": {"0": "MRI"}, "labels": {name: k for k, name in enumerate(names)}}
    content = {**labels, "numTraining": cases, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(content))


def write_volumes(root: Path, files: dict[str, str], num_classes: int, largest: int = 0, ct: bool = True) -> None:
    """NIfTI pairs ``{image: label}``, small, anisotropic, in the axis order of most scanners, in HU or MR units."""
    for seed, (image_name, label_name) in enumerate(files.items()):
        image, label = blobs(seed, 3, 32, 32, num_classes)
        label[:, 6:26, 6:26] = np.where(label[:, 6:26, 6:26] == 0, 0, largest) if largest else label[:, 6:26, 6:26]
        affine = np.diag([-0.8, -0.8, 5.0, 1.0])
        values = (image * 400 - 200).astype(np.int16) if ct else (image * 900).astype(np.uint16)
        for name, array in ((image_name, values), (label_name, label)):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            nib.Nifti1Image(array.transpose(2, 1, 0), affine).to_filename(root / name)


def amos_ct(root: Path, first: int = 1) -> None:
    pairs = [("Tr", first + k) for k in range(3)] + [("Va", first + 7)]
    files = {f"images{s}/amos_{n:04d}.nii.gz": f"labels{s}/amos_{n:04d}.nii.gz" for s, n in pairs}
    write_volumes(root, files, 16, largest=6, ct=first < 501)
    write_volumes(root, {"imagesTs/amos_0009.nii.gz": "elsewhere/amos_0009.nii.gz"}, 16)


def amos_mr(root: Path) -> None:
    amos_ct(root, first=507)
    write_volumes(root, {"imagesTr/amos_0001.nii.gz": "labelsTr/amos_0001.nii.gz"}, 16)


def flare22(root: Path) -> None:
    files = {f"images/FLARE22_Tr_{n:04d}_0000.nii.gz": f"labels/FLARE22_Tr_{n:04d}.nii.gz" for n in range(1, 6)}
    write_volumes(root / "FLARE22_LabeledCase50", files, 14, largest=1)


def word(root: Path) -> None:
    pairs = [("Tr", 2), ("Tr", 4), ("Tr", 7), ("Val", 1), ("Ts", 14)]
    files = {f"images{s}/word_{n:04d}.nii.gz": f"labels{s}/word_{n:04d}.nii.gz" for s, n in pairs}
    write_volumes(root, files, 17)


def btcv(root: Path) -> None:
    numbers = [*split_numbers("btcv", "train")[:3], *split_numbers("btcv", "test")[:2]]
    files = {f"img/img{n}.nii.gz": f"label/label{n}.nii.gz" for n in numbers}
    write_volumes(root / "RawData/Training", files, 14, largest=6)


def atlas23(root: Path) -> None:
    write_volumes(root, {f"imagesTr/im{n}.nii.gz": f"labelsTr/lb{n}.nii.gz" for n in range(5)}, 3, largest=1, ct=False)


def nnunet(root: Path, channel: str = "CT") -> None:
    """A folder without a card, with a gap in the ids and a missing label for the fifth case."""
    files = {f"imagesTr/scan_{n}_0000.nii.gz": f"labelsTr/scan_{n}.nii.gz" for n in range(10)}
    write_volumes(root, files, 3)
    for path in (root / "labelsTr").iterdir():
        image = nib.load(path)
        values = np.array([0, 2, 7], np.uint8)[np.asarray(image.dataobj)]
        nib.Nifti1Image(values, image.affine).to_filename(path)
    (root / "labelsTr/scan_4.nii.gz").unlink()
    labels = {"background": 0, "cyst": 2, "stone": 7}
    content = {"channel_names": {"0": channel}, "labels": labels, "numTraining": 9, "file_ending": ".nii.gz"}
    describe(root, name="Kidney Stones", **content)


def describe(root: Path, **content: object) -> Path:
    """Write the ``dataset.json`` of a folder, and return the folder."""
    root.mkdir(exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def kampala(root: Path) -> None:
    root.mkdir(parents=True)
    for seed, (name, height, width) in enumerate((("A", 90, 140), ("B", 64, 70))):
        mask = (blobs(seed, 1, 150, 150, 2)[1][:, :height, :width]).astype(np.uint8)
        image = np.concatenate([mask * 90 + 40 * k for k in range(1, 4)])
        write_scene(root / f"mosaic_{name}_image.tif", image, transform=away(seed))
        write_scene(root / f"mosaic_{name}_mask.tif", mask, transform=away(seed))


def sentinel2_india(root: Path) -> None:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for n in range(6):
        mask = blobs(n, 1, 80, 80, 4)[1][:, : 70 + n]
        image = np.concatenate([mask * 20 + k for k in range(4)]).astype(np.uint8)
        write_scene(root / f"images/{n:03d}.tif", image, transform=None, crs=None)
        Image.fromarray(mask[0]).save(root / f"masks/{n:03d}.png")


def wildfire(root: Path) -> None:
    for folder in ("post_fire", "masks"):
        (root / folder).mkdir(parents=True)
    for n, name in enumerate(("APACHE_20240624", "CODY_20240608", "RANCH_20240601", "SKY_20240619", "WATER_20240621")):
        mask = blobs(n, 1, 60, 60, 2)[1][:, :50]
        image = np.concatenate([mask * 1000.0 + 100 * k for k in range(5)])
        image[:, 5:9, 5:9] = np.nan
        place = rasterio.transform.from_origin(-120 + n, 39, 0.00018, 0.00018)
        write_scene(root / f"post_fire/{name}.tif", image, crs="EPSG:4326", transform=place)
        write_scene(root / f"masks/{name}.tif", mask, crs="EPSG:4326", transform=place)


def isprs(root: Path, tiles: Sequence[str], names: Mapping[str, str], images: Mapping[str, int]) -> None:
    """Colour-coded labels, eroded ones with black boundaries; images and DSM with a geotransform but no CRS."""
    colours = np.array([(255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)], np.uint8)
    for seed, tile in enumerate(tiles):
        mask = blobs(seed, 1, 70, 70, 6)[1]
        coloured = np.moveaxis(colours[mask[0]], 2, 0)
        eroded = coloured.copy()
        eroded[:, :, ::7] = 0
        row, _, column = tile.partition("_")
        files = {name: np.repeat(mask * 40, bands, axis=0) for name, bands in images.items()}
        files |= {names["dsm"]: mask * np.float32(2.5) + 30, names["label"]: coloured, names["eroded"]: eroded}
        for name, array in files.items():
            path = root / name.format(tile=tile, row=row, column=column)
            path.parent.mkdir(parents=True, exist_ok=True)
            placed = array is not coloured and array is not eroded
            write_scene(path, array, transform=away(seed) if placed else None, crs=None)


def potsdam(root: Path) -> None:
    names = {
        "dsm": "1_DSM/dsm_potsdam_{row:0>2}_{column:0>2}.tif",
        "label": "5_Labels_all/top_potsdam_{tile}_label.tif",
        "eroded": "5_Labels_all_noBoundary/top_potsdam_{tile}_label_noBoundary.tif",
    }
    images = {"2_Ortho_RGB/top_potsdam_{tile}_RGB.tif": 3, "4_Ortho_RGBIR/top_potsdam_{tile}_RGBIR.tif": 4}
    isprs(root, ["2_10", "3_11", "7_12", "2_13", "7_13"], names, images)


def vaihingen(root: Path) -> None:
    names = {
        "dsm": "dsm/dsm_09cm_matching_area{tile}.tif",
        "label": "gts_for_participants/top_mosaic_09cm_area{tile}.tif",
        "eroded": "gts_eroded_for_participants/top_mosaic_09cm_area{tile}_noBoundary.tif",
    }
    isprs(root, ["1", "3", "5", "2", "38"], names, {"top/top_mosaic_09cm_area{tile}.tif": 3})


def image_folder(root: Path) -> None:
    for folder in ("images/town", "masks/town"):
        (root / folder).mkdir(parents=True)
    for n in range(6):
        mask = blobs(n, 1, 60, 60, 2)[1][0]
        suffix = ("png", "JPG", "bmp")[n % 3]
        Image.fromarray(np.repeat(mask[..., None] * 90 + 40, 3, axis=2)).save(root / f"images/town/{n}.{suffix}")
        Image.fromarray(mask * 255).save(root / f"masks/town/{n}.{'jpg' if n == 4 else 'png'}", quality=60)


def geotiff_pairs(root: Path) -> None:
    root.mkdir(parents=True)
    for n in range(6):
        mask = blobs(n, 1, 90, 60, 2)[1]
        image = np.concatenate([mask * np.uint16(900) + 400 * k for k in range(1, 4)]).astype(np.uint16)
        write_scene(root / f"scene {n}.tif", image, transform=away(n), nodata=0)
        write_scene(root / f"scene {n}_mask.tif", mask, transform=away(n))
        (root / f"scene {n}_mask.tif.aux.xml").write_text("<PAMDataset/>")  # which GIS programs leave


def new_brunswick(root: Path) -> None:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for n in (1, 2):
        mask = blobs(n, 1, 150, 130, 5)[1]
        mask[:, :4] = 255
        image = np.repeat(mask % 5 * 40, 3, axis=0)
        write_scene(root / f"images/23322E759967N_clipped_1m_{n}of2.tif", image, transform=away(n))
        write_scene(root / f"masks/mask_{n}of2.tif", mask, transform=away(n))


def loveda(root: Path) -> None:
    for n, place in enumerate(("Train/Urban", "Train/Urban", "Train/Rural", "Val/Urban", "Val/Rural")):
        mask = blobs(n, 1, 64, 64, 8)[1][0]
        for folder, array in (("images_png", np.repeat(mask[..., None] * 30, 3, axis=2)), ("masks_png", mask)):
            (root / place / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / place / folder / f"{1366 + n}.png")


def phantom(root: Path) -> None:
    write_synapse_layout(root, range(1, 13), range(13, 17), slices=2, size=32)


WRITERS = {
    "phantom": phantom,
    "synapse": synapse,
    "acdc": acdc_ssl4mis,
    "hippocampus": hippocampus,
    "amos_ct": amos_ct,
    "amos_mr": amos_mr,
    "flare22": flare22,
    "word": word,
    "btcv": btcv,
    "atlas23": atlas23,
    "nnunet": nnunet,
    "kampala": kampala,
    "sentinel2_india": sentinel2_india,
    "wildfire": wildfire,
    "potsdam": potsdam,
    "vaihingen": vaihingen,
    "loveda": loveda,
    "image_folder": image_folder,
    "geotiff_pairs": geotiff_pairs,
    "new_brunswick": new_brunswick,
}
"""Writers by card; every shipped config needs one."""


def root_of(config: Path) -> Path:
    """Data root of a config."""
    return Path(read_config(str(config))["data"]["root"])


def write_landcover(root: Path, size: int) -> None:
    """LandCover.ai as stored by torchgeo: chips and masks in output/, one list per split."""
    (root / "output").mkdir(parents=True)
    rng = np.random.default_rng(0)
    mask = np.repeat(np.arange(4, dtype=np.uint8), size // 4)[:, None].repeat(size, axis=1)
    for split in ("train", "val", "test"):
        names = [f"{split}_{i}" for i in range(2)]
        (root / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            image = (mask[..., None] * 50 + rng.integers(0, 20, (size, size, 3))).astype(np.uint8)
            Image.fromarray(image).save(root / "output" / f"{name}.jpg")
            Image.fromarray(mask).save(root / "output" / f"{name}_m.png")


PLACE = rasterio.transform.Affine(0.5, 0, 500_000, 0, -0.5, 35_000)
"""Half a metre per pixel, in Uganda."""


def away(n: int) -> rasterio.transform.Affine:
    """``PLACE`` shifted by some kilometres, so that scenes do not overlap."""
    return rasterio.transform.Affine.translation(5000 * n, 0) * PLACE


def write_scene(path: Path, array: np.ndarray, transform=PLACE, crs="EPSG:32636", **profile: object) -> Path:
    """Write ``(C, H, W)`` as GeoTIFF."""
    count, height, width = array.shape
    facts = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": array.dtype, **profile}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", crs=crs, transform=transform, **facts) as file:
            file.write(array)
    return path
