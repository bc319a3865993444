"""Export as a MONAI bundle, for ``python -m monai.bundle``, MONAI Label and MONAI Deploy, without this package.

The network is a TorchScript module for whole volumes (:mod:`mlla_seg.export.volume`). MONAI reads the files, reorients
them to the plane of the training, and writes masks in the files' own geometry.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlla_seg._version import __version__
from mlla_seg.data import mask_operations, outputs
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.formats.picture import Array
from mlla_seg.data.formats.planes import ACQUIRED, PLANES
from mlla_seg.data.postprocessing import in_words
from mlla_seg.errors import InputError
from mlla_seg.export.exportable import Exportable, Job, example_image
from mlla_seg.export.parity import Engine
from mlla_seg.export.programs import save_scripted, scripted, write_whole
from mlla_seg.export.volume import PatchedVolume, Volume
from mlla_seg.inference.cases import TorchEngine
from mlla_seg.inference.steps import case_logits
from mlla_seg.progress import quiet
from mlla_seg.visible import in_markdown

NETWORK = "models/model.ts"
SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
"""MONAI's schema of ``metadata.json``; only ``python -m monai.bundle verify_metadata`` reads it."""
LICENCE = """Whoever trained these weights chooses their licence, which may depend on the training data.
Replace this text with the licence before you distribute the bundle.
"""


def write_bundle(job: Job, path: Path) -> Engine:
    """Write the bundle.

    Raises:
        InputError: The network cannot be scripted, or its slice axis differs between volumes (``plane: acquired``).
    """
    spec = job.spec
    if spec.plane == ACQUIRED:
        raise InputError(
            "This network takes volumes in their acquisition plane (plane: acquired); MONAI reorients all to one plane."
            " Export onnx for mlla_seg.runtime, or train with --data.plane axial, coronal or sagittal."
        )
    values = [entry.id for entry in spec.classes]
    network = Exportable(job.network, precision=job.precision)
    # Labels can be reoriented exactly; with resampling, probabilities are resampled instead of labels.
    written = None if spec.spacing_mm else values
    kind = Volume if spec.axes == 2 else PatchedVolume
    volume = kind(network, spec.view, written, spec.writes)
    for folder in ("configs", "models", "docs"):
        (path / folder).mkdir(parents=True)
    write_whole(path / NETWORK, lambda file: save_scripted(scripted(volume), file))
    for name, content in (("metadata", _inert(metadata(spec))), ("inference", inference(spec, values))):
        (path / f"configs/{name}.json").write_text(json.dumps(content, indent=4) + "\n")
    if spec.postprocessing:
        (path / "scripts").mkdir()
        (path / "scripts/__init__.py").touch()
        shutil.copyfile(mask_operations.__file__, path / "scripts/mask_operations.py")
    (path / "docs/README.md").write_text(_readme(spec), encoding="utf-8")
    (path / "LICENSE").write_text(LICENCE)
    return _engine(job, path, values)


def _inert(value: Any) -> Any:
    """Return content in which no name is one of MONAI's expressions ($), references (@) or macros (%)."""
    if isinstance(value, dict):
        return {_inert(key): _inert(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_inert(inner) for inner in value]
    return f"'{value}" if isinstance(value, str) and value.startswith(("$", "@", "%")) else value


def metadata(spec: DataSpec) -> dict[str, Any]:
    """Return ``configs/metadata.json``: description of the bundle, inputs and outputs of its network."""
    names = spec.class_names
    ct = "CT" in spec.modality
    image = {
        "type": "image",
        "format": "hounsfield" if ct else "magnitude",
        "modality": spec.modality,
        "num_channels": len(spec.channels),
        "spatial_shape": ["*", "*", "*"],
        "dtype": "float32",
        "value_range": list(spec.normalisation.windows[0] or ()) if len(spec.channels) == 1 else [],
        "is_patch_data": False,
        "channel_def": dict(enumerate(spec.channels)),
    }
    ids = [entry.id for entry in spec.classes]
    resampled = bool(spec.spacing_mm)
    channels = spec.output_names
    seen = "Slices" if spec.axes == 2 else "Patches"
    pred = {
        "type": "probabilities" if resampled else "image",
        "format": "segmentation",
        "num_channels": len(channels) if resampled else 1,
        "spatial_shape": ["*", "*", "*"],
        "dtype": "float32" if resampled else "uint8" if max(ids) < 256 else "int16",
        "value_range": [0, 1] if resampled else [min(ids), max(ids)],
        "is_patch_data": False,
        "channel_def": dict(enumerate(channels)) if resampled and spec.regions else dict(zip(ids, names, strict=True)),
    }
    return {
        "schema": SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported by mlla_seg {__version__} on {date.today().isoformat()}"},
        "monai_version": version("monai"),
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {"nibabel": version("nibabel"), "pytorch-ignite": "0.5.0", "fire": "0.6.0"},
        "name": f"mlla_seg {spec.name}",
        "task": f"Segmentation of {', '.join(names[1:] if spec.background == 0 else names)}",
        "description": f"{seen} of {spec.modality} volumes, segmented by a network with linear attention (MLLA).",
        "authors": "whoever trained the network",
        "copyright": "see LICENSE",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
        "mlla_seg": spec.to_dict(),
    }


def inference(spec: DataSpec, values: list[int]) -> dict[str, Any]:
    """Return ``configs/inference.json``: from the files in ``dataset_dir`` to masks in ``output_dir``."""
    plane = PLANES[spec.plane]
    load: list[dict[str, Any]] = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {
            "_target_": "Orientationd",
            "keys": "image",
            "axcodes": plane[1:] + plane[0],
            "labels": [["L", "R"], ["P", "A"], ["I", "S"]],
        },
    ]
    finish: list[dict[str, Any]] = []
    if spec.spacing_mm:
        along_slices, along_rows, along_columns = (step or -1 for step in spec.spacing_mm)
        pixdim = [along_rows, along_columns, along_slices]  # -1 keeps the spacing of the file
        load.append(
            {"_target_": "Spacingd", "keys": "image", "pixdim": pixdim, "mode": "bilinear", "scale_extent": True}
        )
        finish += _labelled(spec, values)
    load.append({"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32", "device": "@device"})
    back = {
        "_target_": "Invertd",
        "keys": "pred",
        "transform": "@preprocessing",
        "orig_keys": "image",
        "nearest_interp": not spec.spacing_mm,
        "to_tensor": True,
    }
    save = {
        "_target_": "SaveImaged",
        "keys": "pred",
        "output_dir": "@output_dir",
        "output_postfix": "seg",
        "output_dtype": "$np.uint8" if max(values) < 256 else "$np.int16",
        "resample": False,
        "separate_folder": False,
    }
    imports = ["$import glob", "$import numpy as np", "$import torch"]
    if spec.postprocessing:
        imports.append("$from scripts.mask_operations import postprocessed")
        steps = [step.to_dict(values, "values") for step in spec.postprocessing]
        mm3 = "float(torch.linalg.det(p.affine[:3, :3]).abs())"
        after = f"postprocessed(p.cpu().numpy().astype(int), {steps!r}, {values[spec.background or 0]}, {mm3})"
        rule = f"$lambda p: p.copy_(torch.as_tensor({after}))"  # keeps the metadata
        finish.append({"_target_": "Lambdad", "keys": "pred", "func": rule, "track_meta": True})
    return {
        "imports": imports,
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/masks'",
        "datalist": "$[{'image': f} for f in sorted(glob.glob(@dataset_dir + '/*.nii*'))]",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": {
            "_target_": "torch.jit.load",
            "f": f"$@bundle_root + '/{NETWORK}'",
            "map_location": "@device",
        },
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": load},
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {"_target_": "Compose", "transforms": [back, *finish, save]},
        "handlers": [],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "run": ["$@evaluator.run()"],
    }


def _labelled(spec: DataSpec, values: list[int]) -> list[dict[str, Any]]:
    """Return the steps from probabilities to mask values, see :mod:`mlla_seg.data.outputs`."""
    if spec.regions:  # the value that the last region above 0.5 writes
        table = [values[0], *(values[region.writes] for region in spec.regions)]
        numbers = f"torch.arange(1, {len(table)}, device=p.device).view(-1, 1, 1, 1)"
        rule = f"$lambda p: torch.tensor({table}, device=p.device)[((p > 0.5) * {numbers}).amax(0, keepdim=True)]"
        return [{"_target_": "Lambdad", "keys": "pred", "func": rule, "track_meta": True}]
    steps: list[dict[str, Any]] = [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}]
    classes = list(range(len(values)))
    if values != classes:
        steps.append({"_target_": "MapLabelValued", "keys": "pred", "orig_labels": classes, "target_labels": values})
    return steps


def _engine(job: Job, path: Path, values: list[int]) -> Engine:
    """Return an engine that runs the bundle on ``(S, C, H, W)``, compared with the steps of predict."""
    spec = job.spec
    with quiet():
        volume = torch.jit.load(path / NETWORK)

    def run(image: Array) -> Array:
        with torch.inference_mode():
            result = volume(torch.from_numpy(image).permute(1, 2, 3, 0)[None])[0].permute(3, 0, 1, 2).numpy()
        if spec.spacing_mm:  # probabilities, as MONAI resamples them
            return outputs.labels(torch.from_numpy(result) - 0.5, spec.writes).numpy()
        order = np.argsort(values)
        return order[np.searchsorted(values, result[:, 0], sorter=order)]

    def expected(image: Tensor) -> Tensor:
        view = replace(spec.view, spacing_mm=None)  # MONAI resamples before the network
        return torch.cat(list(case_logits(TorchEngine(job.network), image, view)))

    sizes = ((5, 70, 90), (6, 225, 257)) if spec.axes == 2 else [_beyond(spec.patch_size)]
    images = [example_image(spec, (n, len(spec.channels), height, width), n) for n, height, width in sizes]
    return Engine(f"TorchScript {torch.__version__} of the bundle", run, images, expected)


def _beyond(patch: Sequence[int] | None) -> tuple[int, int, int]:
    """Return slices, height and width of a volume of two windows, smaller than them along its rows."""
    slices, height, width = patch or (1, 1, 1)
    return slices + (slices + 3) // 4, max(1, height - 3), width


def _postprocessing(spec: DataSpec) -> str:
    if not spec.postprocessing:
        return ""
    steps = in_words(spec.postprocessing, spec.class_names)
    return f"\nMasks are post-processed by scripts/mask_operations.py: {steps}.\nPut this folder on PYTHONPATH.\n"


def _readme(spec: DataSpec) -> str:
    rows = "\n".join(f"| {entry.id} | {in_markdown(entry.name)} |" for entry in spec.classes)
    spacing = ""
    if spec.spacing_mm:
        spacing = (
            f"\nMONAI resamples volumes linearly to {spec.spacing_mm} mm (slices, rows, columns; None: unchanged).\n"
            "mlla_seg itself uses cubic interpolation within slices, so masks differ slightly at edges.\n"
        )
    seen = "slice by slice" if spec.axes == 2 else "by patches of volumes"
    name, modality, channels = map(in_markdown, (spec.name, spec.modality, ", ".join(spec.channels)))
    return f"""# {name}

Segments {modality} volumes ({channels}) with MLLA, {seen}. Exported by mlla_seg \
{__version__}.

    python -m monai.bundle run --config_file configs/inference.json --bundle_root . \\
        --dataset_dir FOLDER_OF_NIFTI --output_dir masks

This needs monai, nibabel, pytorch-ignite and fire. `{NETWORK}` takes `(B, C, H, W, S)` float32 in raw units, rows \
towards
{PLANES[spec.plane][1]}, columns towards {PLANES[spec.plane][2]}, slices towards {PLANES[spec.plane][0]}.
{spacing}{_postprocessing(spec)}
| value | class |
|---|---|
{rows}
"""
