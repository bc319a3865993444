"""Kill the program at random points of its work, start it again, and compare the results with uninterrupted runs.

    python benchmarks/kills.py --folder /tmp/kills --kills 500
    python benchmarks/kills.py --folder /tmp/kills --only fit export --kills 20 --seed 1

A run counts its accesses to files of its own folder. A killed run gets SIGKILL at a random one of them, up to 0.1 s
later. What is complete then must be whole, and the same command must end with the results of an uninterrupted run.
Rows are appended to ``kills.csv``, so that a campaign that is interrupted goes on; a table of counts is printed at the
end, and the exit status is 1 if anything was lost. Runs follow each other, at low priority; data are generated.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")
LATEST = 0.1
"""Largest time in seconds between the access to a file and the kill."""
PATIENCE = 900
"""Seconds after which a run counts as hanging."""
TEMPORARY = (".tmp-", ".unfinished", "hpc_ckpt")
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.listdir", "os.scandir")
OUTCOMES = ("equal", "after the end", "leftovers", "half file", "lost", "refused", "hangs")
"""What becomes of a killed run; all after the third are faults."""
TINY = [
    *("--config", str(ROOT / "configs/demo.yaml"), "--model.encoder=mlla_test", "--model.decoder_depths=[1,1,1]"),
    *("--data.crop=[32,32]", "--data.batch_size=8", "--trainer.accelerator=cpu", "--trainer.max_epochs=2"),
    *("--trainer.enable_model_summary=false", "--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1"),
]
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


def export(inputs: Path, form: str, name: str) -> list[str]:
    return ["export", f"--ckpt_path={inputs / 'best.ckpt'}", f"--format={form}", f"--output={name}"]


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
    "safetensors": Part(lambda p: export(p, "safetensors", "folder"), of_export),
    "torchscript": Part(lambda p: export(p, "torchscript", "model.ts"), of_export),
    "onnx": Part(lambda p: export(p, "onnx", "model.onnx"), of_export),
}


def start(words: list[str], folder: Path, kill_at: int | None, seed: int = 0) -> tuple[int, int]:
    """Run a command in a process of its own, in a folder.

    Returns:
        Its exit status, negative for a signal, and its number of accesses to files of the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    counts = folder.with_suffix(".count")
    counts.unlink(missing_ok=True)
    process = os.fork()
    if process == 0:
        _child(words, folder, kill_at, seed, counts)
    deadline = time.monotonic() + PATIENCE
    while (ended := os.waitpid(process, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return 1000, 0
        time.sleep(0.02)
    _end_group(process)
    return os.waitstatus_to_exitcode(ended[1]), int(counts.read_text()) if counts.is_file() else 0


def _end_group(leader: int) -> None:
    """Wait for the processes that a killed one has left, such as loaders and other ranks; end them if they stay."""
    for wait in (0.1, 0.4, 1.5, 8, 50):
        try:
            os.killpg(leader, 0)
        except ProcessLookupError:
            return
        time.sleep(wait)
    os.killpg(leader, signal.SIGKILL)


def _child(words: list[str], folder: Path, kill_at: int | None, seed: int, counts: Path) -> None:
    """Run the command; never returns."""
    os.setsid()
    os.chdir(folder)
    said = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    own, here, seen = os.getpid(), str(folder), [0]
    delay = random.Random(seed).uniform(0, LATEST)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if (
            event not in EVENTS
            or os.getpid() != own
            or not arguments
            or not isinstance(arguments[0], (str, os.PathLike))
        ):
            return
        if os.path.join(here, os.fspath(arguments[0])).startswith(here):
            seen[0] += 1
            if seen[0] == kill_at:
                threading.Timer(delay, os.kill, (own, signal.SIGKILL)).start()

    sys.addaudithook(watch)
    sys.argv = [str(ROOT / "cli.py"), *words]
    status = 1
    try:
        from mlla_seg.cli import main

        main()
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        counts.write_text(str(seen[0]))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def leftovers(folder: Path) -> list[str]:
    """Return the names of temporary files, and of runs without any content."""
    empty = [path.name for path in folder.rglob("version_*") if not any(path.iterdir())]
    return empty + [path.name for path in folder.rglob("*") if path.name.startswith(TEMPORARY)]


def prepare(folder: Path) -> Path:
    """Generate the inputs: a data set, a trained network, volumes and a scene."""
    import nibabel
    import numpy as np
    import rasterio

    from mlla_seg.data.synthetic import write_synapse_layout

    inputs = folder / "inputs"
    if (inputs / "scene.tif").is_file():
        return inputs
    shutil.rmtree(inputs, ignore_errors=True)
    (inputs / "volumes").mkdir(parents=True)
    write_synapse_layout(inputs / "phantom", range(1, 13), range(13, 17), slices=4, size=32)
    status, _ = start(fit(inputs, "--data.num_workers=0"), folder / "prepared", None)
    if status:
        raise SystemExit(f"The inputs could not be made, see {folder / 'prepared.log'}.")
    shutil.copy(next((folder / "prepared").rglob("best.ckpt")), inputs / "best.ckpt")
    draw = np.random.default_rng(0)
    for k in range(4):
        volume = draw.normal(40, 100, (40, 48, 5)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(volume, np.diag([0.8, 0.8, 3, 1])), inputs / f"volumes/case{k}.nii.gz")
    pixels = draw.normal(40, 100, (1, 500, 400)).astype(np.float32)
    about = {"driver": "GTiff", "count": 1, "height": 500, "width": 400, "dtype": "float32", "crs": "EPSG:32643"}
    transform = rasterio.transform.from_origin(300000, 2000000, 10, 10)
    with rasterio.open(inputs / "unfinished.tif", "w", transform=transform, **about) as file:
        file.write(pixels)
    os.replace(inputs / "unfinished.tif", inputs / "scene.tif")
    return inputs


def one_kill(
    part: Part, inputs: Path, folder: Path, expected: dict[str, Any], count: int, seed: int
) -> tuple[str, str]:
    """Kill a run, start it again, and return the outcome and a detail."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_suffix(".log").unlink(missing_ok=True)
    at = random.Random(seed).randint(1, max(1, count))
    status, _ = start(part.command(inputs), folder, at, seed)
    if status != -signal.SIGKILL:
        return ("after the end" if status == 0 else "hangs" if status == 1000 else "refused"), f"access {at}: {status}"
    try:
        there = part.results(folder)
    except Exception as error:
        return "half file", f"access {at}: {error!r}"
    if not part.partial and (wrong := [name for name in there if there[name] != expected.get(name)]):
        return "half file", f"access {at}: {wrong}"
    status, _ = start([*part.command(inputs), *part.again], folder, None)
    if status:
        return ("hangs" if status == 1000 else "refused"), f"access {at}: status {status} when started again"
    found = part.results(folder)
    if wrong := [name for name in {**expected, **found} if found.get(name) != expected.get(name)]:
        return "lost", f"access {at}: {wrong}"
    return ("leftovers" if (rest := leftovers(folder)) else "equal"), f"access {at} of {count} {rest or ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("kills"), help="where to work; a campaign goes on there")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to kill")
    parser.add_argument("--kills", type=int, default=90, help="kills in all, divided among the parts")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.nice(10)
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    import mlla_seg.export
    import mlla_seg.inference.predictor
    import mlla_seg.training.cli  # noqa: F401 - once, so that runs, which are forked, start at once

    inputs, table = prepare(folder), folder / "kills.csv"
    rows = list(csv.reader(table.open())) if table.is_file() else []
    done = {(row[0], int(row[1])) for row in rows}
    for name in options.only:
        part, work = PARTS[name], folder / name.replace(" ", "_")
        wanted = [options.seed * 100_000 + k for k in range(-(-options.kills // len(options.only)))]
        if not (left := [seed for seed in wanted if (name, seed) not in done]):
            continue
        shutil.rmtree(work, ignore_errors=True)
        status, count = start(part.command(inputs), work, None)
        if status:
            raise SystemExit(f"{name} fails without a kill, see {work.with_suffix('.log')}.")
        expected = part.results(work)
        for seed in left:
            outcome, detail = one_kill(part, inputs, work, expected, count, seed)
            if outcome not in OUTCOMES[:2]:
                shutil.copytree(work, folder / "kept" / f"{work.name}-{seed}", dirs_exist_ok=True, symlinks=True)
                shutil.copy(work.with_suffix(".log"), folder / "kept" / f"{work.name}-{seed}.log")
            rows.append([name, str(seed), outcome, detail])
            with table.open("a", newline="") as file:
                csv.writer(file).writerow(rows[-1])
            print(f"{name} {seed}: {outcome} ({detail})", flush=True)
    counts = Counter((row[0], row[2]) for row in rows)
    print("\n" + " | ".join(["part".ljust(14), *OUTCOMES]))
    for name in PARTS:
        print(" | ".join([name.ljust(14), *(str(counts[name, outcome]).rjust(len(outcome)) for outcome in OUTCOMES)]))
    sys.exit(any(counts[name, outcome] for name in PARTS for outcome in OUTCOMES[3:]))


if __name__ == "__main__":
    main()
