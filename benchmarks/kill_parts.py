"""What kills.py kills: commands on small generated data, and their results in comparable form."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TEMPORARY = (".tmp-", ".unfinished", "hpc_ckpt")
"""Beginnings of the names of files that are not finished."""
TINY = [
    *("--config", str(ROOT / "configs/demo.yaml"), "--model.encoder=mlla_test", "--model.decoder_depths=[1,1,1]"),
    *("--data.crop=[32,32]", "--data.batch_size=8", "--trainer.accelerator=cpu", "--trainer.max_epochs=2"),
    *("--trainer.enable_model_summary=false", "--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1"),
]
SMALL = ("--model.encoder=timm/test_resnet", "--model.decoder=linknet", "--model.decoder_depths=null")
"""A network of few operations, as torch needs a minute to export the other one."""
EMA = "--trainer.callbacks=[{class_path: mlla_seg.training.ema.WarmEMA}]"


@dataclass(frozen=True)
class Part:
    """A command that is killed.

    Args:
        command: Its words, given the folder with the inputs.
        again: Words added when it is started again.
        results: Content of the results in the folder of a run, by name, as far as they are there; for comparison.
        partial: Whether files may differ from the final ones while the command works, as checkpoints do.
    """

    command: Callable[[Path], list[str]]
    results: Callable[[Path], dict[str, Any]]
    again: tuple[str, ...] = ()
    partial: bool = False


def tensors(path: Path) -> dict[str, Any]:
    """Return weights, average, moments and schedule of a checkpoint in comparable form."""
    import torch

    content = torch.load(path, weights_only=True)
    keys = ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "epoch", "global_step")

    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.numpy().tobytes()
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return [plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value

    return {key: plain(content[key]) for key in keys if key in content}


def latest(folder: Path) -> Path:
    """Return the folder of the latest version of a run; earlier ones are those of killed processes."""
    versions = sorted((folder / "runs").rglob("version_*"), key=lambda path: int(path.name.split("_")[1]))
    return versions[-1] if versions else folder / "runs"


def of_fit(folder: Path) -> dict[str, Any]:
    run = latest(folder)
    found: dict[str, Any] = {path.name: tensors(path) for path in sorted(run.glob("checkpoints/[!.]*.ckpt"))}
    return {**found, **{path.name: path.read_text() for path in run.glob("metrics.csv")}}


def of_test(folder: Path) -> dict[str, Any]:
    names = ("per_case.csv", "scores.csv", "scores.tex", "summary.json")
    run = latest(folder)
    return {name: (run / name).read_text() for name in names if (run / name).is_file()}


def of_export(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name.startswith(TEMPORARY):
            continue
        if path.name.endswith("parity.json"):  # holds times
            found[name] = len(json.loads(path.read_text())["rows"])
        elif zipfile.is_zipfile(path):  # holds dates
            with zipfile.ZipFile(path) as file:
                found[name] = {entry.filename: entry.CRC for entry in file.infolist()}
        else:
            found[name] = path.read_bytes()
    return found


def of_masks(folder: Path) -> dict[str, Any]:
    import nibabel
    import numpy as np
    import rasterio

    found: dict[str, Any] = {}
    for path in sorted((folder / "masks").glob("[!.]*")):
        if path.name.endswith(".nii.gz"):
            found[path.name] = np.asarray(nibabel.load(path).dataobj).tobytes()
        elif path.suffix == ".tif":
            with rasterio.open(path) as file:
                found[path.name] = file.read().tobytes()
    return found


def fit(inputs: Path, *more: str) -> list[str]:
    return ["fit", *TINY, f"--data.root={inputs / 'phantom'}", "--checkpoint_minutes=0", EMA, *more]


def predict(inputs: Path, what: str) -> list[str]:
    return ["predict", f"--ckpt_path={inputs / 'best.ckpt'}", f"--input={inputs / what}", "--output=masks"]


def export(inputs: Path, form: str, name: str, weights: str = "small.ckpt") -> list[str]:
    return ["export", f"--ckpt_path={inputs / weights}", f"--format={form}", f"--output={name}"]


TWO = ("--trainer.devices=2", "--trainer.strategy=ddp", "--data.num_workers=0")
PARTS = {
    "fit": Part(lambda p: fit(p, "--data.num_workers=2"), of_fit, ("--ckpt_path=last",), partial=True),
    "two processes": Part(lambda p: fit(p, *TWO), of_fit, ("--ckpt_path=last",), partial=True),
    "store": Part(
        lambda p: fit(p, "--data.num_workers=0", "--data.cache_dir=cache", "--trainer.max_steps=1"),
        of_fit,
        ("--ckpt_path=last",),
        partial=True,
    ),
    "test": Part(lambda p: ["test", *TINY, f"--data.root={p / 'phantom'}", f"--ckpt_path={p / 'best.ckpt'}"], of_test),
    "volumes": Part(lambda p: predict(p, "volumes"), of_masks, ("--overwrite=false",)),
    "scene": Part(lambda p: [*predict(p, "scene.tif"), "--window=64"], of_masks, ("--overwrite=false",)),
    "safetensors": Part(lambda p: export(p, "safetensors", "folder", "best.ckpt"), of_export),
    "torchscript": Part(lambda p: export(p, "torchscript", "model.ts"), of_export),
    "onnx": Part(lambda p: export(p, "onnx", "model.onnx"), of_export),
}
