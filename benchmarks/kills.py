"""Kill the program at random points of its work, start it again, and compare the results with uninterrupted runs.

    python benchmarks/kills.py --folder /tmp/kills --kills 500
    python benchmarks/kills.py --folder /tmp/kills --only fit export --kills 20 --seed 1

A run counts its accesses to files of its own folder. A killed run gets SIGKILL at a random one of them, up to 0.1 s
later. What is complete then must be whole, and the same command must end with the results of an uninterrupted run.
Rows are appended to ``kills.csv``, so that a campaign that is interrupted goes on; a table of counts is printed at the
end, and the exit status is 1 if anything was lost. Runs follow each other, at low priority; data are generated. They
are forked from a process that has imported what an uninterrupted run imports, as imports take longer than the work.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from kill_parts import PARTS, ROOT, SMALL, TEMPORARY, Part, fit

sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")
LATEST = 0.1
"""Largest time in seconds between the access to a file and the kill; every other kill comes before the access."""
PATIENCE = 900
"""Seconds after which a run counts as hanging."""
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.listdir", "os.scandir")
OUTCOMES = ("equal", "after the end", "leftovers", "half file", "lost", "refused", "hangs")
"""What becomes of a killed run; all after the third are faults."""


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
    with suppress(ProcessLookupError):  # the last has ended meanwhile
        os.killpg(leader, signal.SIGKILL)


def _child(words: list[str], folder: Path, kill_at: int | None, seed: int, counts: Path) -> None:
    """Run the command; never returns."""
    os.setsid()
    os.chdir(folder)
    said = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    own, here, seen = os.getpid(), str(folder), [0]
    delay = random.Random(seed).choice((0, random.Random(seed + 1).uniform(0, LATEST)))

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
            if seen[0] == kill_at and delay:
                threading.Timer(delay, os.kill, (own, signal.SIGKILL)).start()
            elif seen[0] == kill_at:
                os.kill(own, signal.SIGKILL)

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
        counts.with_suffix(".modules").write_text("\n".join(sys.modules))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def uninterrupted(part: Part, inputs: Path, folder: Path) -> tuple[dict[str, Any], int]:
    """Run a part without a kill, and import what it has imported, so that runs forked from now on need not.

    Returns:
        Its results, and its number of accesses to files of the folder.
    """
    shutil.rmtree(folder, ignore_errors=True)
    status, count = start(part.command(inputs), folder, None)
    if status:
        raise SystemExit(f"{folder.name} fails without a kill, see {folder.with_suffix('.log')}.")
    for name in folder.with_suffix(".modules").read_text().split("\n"):
        with suppress(Exception):  # some are made by their packages and cannot be imported
            importlib.import_module(name)
    return part.results(folder), count


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
    for name, more in (("best", ()), ("small", SMALL)):
        work = folder / f"prepared_{name}"
        if start(fit(inputs, "--data.num_workers=0", *more), work, None)[0]:
            raise SystemExit(f"The inputs could not be made, see {work.with_suffix('.log')}.")
        shutil.copy(next(work.rglob("best.ckpt")), inputs / f"{name}.ckpt")
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
    seeds = [options.seed * 100_000 + k for k in range(-(-options.kills // len(options.only)))]
    whole = {}
    for name in options.only:
        if any((name, seed) not in done for seed in seeds):
            whole[name] = uninterrupted(PARTS[name], inputs, folder / name.replace(" ", "_"))
    for seed, name in product(seeds, whole):
        if (name, seed) in done:
            continue
        work = folder / name.replace(" ", "_")
        outcome, detail = one_kill(PARTS[name], inputs, work, *whole[name], seed)
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
