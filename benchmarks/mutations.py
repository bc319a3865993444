"""Reading of damaged and hostile files: python benchmarks/mutations.py [COUNT] [SEED] [KIND ...].

Small valid files of every format that the program reads are changed at random: bits flipped, parts cut, inserted,
repeated or set to zero, and numbers replaced by absurd ones. Each must be read or refused with an ``InputError``; any
other exception, a crash, or more than a few seconds or gigabytes is a failure. Prints the counts by kind of file, and
keeps the failing files in ``mutations/``; the same COUNT (per kind, default 1000) and SEED (0) make the same files.

Files are read in a forked process with a limit on its memory, which a time limit ends.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from mutation_samples import KINDS, Kind

from mlla_seg.errors import InputError

SECONDS = 10.0
"""Time limit for one file; on a busy machine a valid one takes some milliseconds."""
MEMORY = 3 * 2**30
"""Bytes of address space that a process may use beyond those of the program."""
ABSURD = [0, 1, 2, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1]
NUMBERS = [float("nan"), float("inf"), float("-inf"), -1.0, 0.0, 1e-308, 1e38, 1e308]
WORDS = [
    "0",
    "-1",
    "1",
    "65536",
    "2147483647",
    "4294967296",
    "99999999999999999999",
    "1e999",
    "nan",
    "-0.0",
    "",
    "%n%s",
]
READ, REFUSED = "read", "refused"


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Return the content of a file with one to three changes."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        content = rng.choice(CHANGES)(content, rng) if content else content
    return content


def _place(content: bytes, rng: random.Random) -> int:
    """Return a position, every other time near the start, where headers are."""
    return rng.randrange(min(len(content), 512) if rng.random() < 0.5 else len(content))


def _flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[_place(content, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: _place(content, rng)]


def _remove(content: bytes, rng: random.Random) -> bytes:
    start = _place(content, rng)
    return content[:start] + content[start + rng.choice((1, 2, 4, 16, 100)) :]


def _insert(content: bytes, rng: random.Random) -> bytes:
    start = _place(content, rng)
    return content[:start] + rng.randbytes(rng.choice((1, 2, 4, 16, 100))) + content[start:]


def _clear(content: bytes, rng: random.Random) -> bytes:
    start, size = _place(content, rng), rng.choice((1, 4, 16, 256))
    filled = rng.choice((b"\0", b"\xff")) * min(size, len(content) - start)
    return content[:start] + filled + content[start + size :]


def _repeat(content: bytes, rng: random.Random) -> bytes:
    start, size = _place(content, rng), rng.choice((4, 16, 64, 512))
    return content[: start + size] + content[start : start + size] * rng.choice((1, 1, 50)) + content[start + size :]


def _move(content: bytes, rng: random.Random) -> bytes:
    here, there, size = _place(content, rng), _place(content, rng), rng.choice((2, 4, 8, 32))
    return content[:there] + content[here : here + size] + content[there + size :]


def _number(content: bytes, rng: random.Random) -> bytes:
    order, start = rng.choice("<>"), _place(content, rng) & ~1
    if rng.random() < 0.25:
        packed = struct.pack(order + rng.choice("fd"), rng.choice(NUMBERS[:7]))
    else:
        size = rng.choice((1, 2, 4, 8))
        packed = (rng.choice(ABSURD) % 2 ** (8 * size)).to_bytes(size, "little" if order == "<" else "big")
    return content[:start] + packed + content[start + len(packed) :]


def _word(content: bytes, rng: random.Random) -> bytes:
    """Replace a number that is written as text, or a word by another one of the file."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?" if rng.random() < 0.7 else rb"[A-Za-z_]{3,}", content[:20_000]))
    if not found:
        return _flip(content, rng)
    chosen = rng.choice(found)
    word = rng.choice([*(word.encode() for word in WORDS), rng.choice(found)[0], b"[" * 3000, b"x" * 5000])
    return content[: chosen.start()] + word + content[chosen.end() :]


CHANGES = (_flip, _cut, _remove, _insert, _clear, _repeat, _move, _number, _number, _word, _word)


@dataclass(frozen=True)
class Job:
    """Mutated files of one kind."""

    kind: Kind
    folder: Path
    seed: int

    def write(self, number: int) -> Path:
        """Write the file with a number in place of the valid one and return it."""
        rng = random.Random(f"{self.seed} {self.kind.name} {number}")
        path = self.folder / self.kind.file
        content = self.kind.unpack(self.valid)
        path.write_bytes(self.kind.pack(mutated(content, rng)) if rng.random() < 0.7 else mutated(self.valid, rng))
        return path

    @property
    def valid(self) -> bytes:
        return (self.folder.parent / "valid").read_bytes()

    def outcome(self, number: int) -> str:
        """Return what became of a file: read, refused, or the exception."""
        self.write(number)
        try:
            self.kind.read(self.folder)
        except InputError as error:
            return REFUSED if str(error) and "Traceback" not in str(error) else "empty message"
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            return f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}: {str(error)[:200]}"
        return READ


def _work(job: Job, start: int, count: int, out: Connection) -> None:
    """Read files in a forked process and send what becomes of each."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    torch.set_num_threads(1)  # others have not come along
    warnings.simplefilter("ignore")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    for number in range(start, count):
        out.send(job.outcome(number))


def outcomes(job: Job, count: int) -> list[str]:
    """Return what becomes of the first files of a job; a process that dies or hangs is replaced by another."""
    context = multiprocessing.get_context("fork")
    found: list[str] = []
    while len(found) < count:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(job, len(found), count, sender))
        process.start()
        sender.close()
        try:
            while len(found) < count:
                if not receiver.poll(SECONDS):
                    found.append(f"took more than {SECONDS:g} s")
                    break
                found.append(receiver.recv())
        except EOFError:
            process.join()
            found.append(f"the process ended with {process.exitcode}")
        finally:
            process.kill()
            process.join()
            receiver.close()
    return found


def _make(kind: Kind, folder: Path) -> None:
    """Write the valid file and read it, in a process of its own: threads of OpenVINO would not live on in others."""

    def work() -> None:
        kind.write(folder)
        kind.read(folder)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"The valid {kind.file} of {kind.name} is not read.")


def campaign(kind: Kind, count: int, seed: int = 0, kept: Path | None = None) -> Counter[str]:
    """Make and read mutated files of one kind.

    Args:
        kind: The kind.
        count: Number of files.
        seed: Seed of the changes.
        kept: Folder for the files that fail, each with what happened beside it.

    Returns:
        Number of files by outcome.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "data"
        folder.mkdir()
        _make(kind, folder)
        shutil.copy(folder / kind.file, folder.parent / "valid")
        job = Job(kind, folder, seed)
        found = outcomes(job, count)
        for number, outcome in enumerate(found):
            if kept and outcome not in (READ, REFUSED):
                kept.mkdir(parents=True, exist_ok=True)
                name = f"{kind.name}-{seed}-{number}"
                shutil.copy(job.write(number), kept / f"{name}{Path(kind.file).suffix}")
                (kept / f"{name}.txt").write_text(outcome + "\n")
    return Counter(re.sub(r"(:\d+): .*", r"\1", outcome, flags=re.DOTALL) for outcome in found)


def main() -> None:
    numbers = [int(text) for text in sys.argv[1:] if text.isdigit()]
    count, seed = (*numbers, 1000, 0)[:2] if len(numbers) != 1 else (numbers[0], 0)
    names = [text for text in sys.argv[1:] if not text.isdigit()] or [*KINDS]
    total: Counter[str] = Counter()
    print(f"{'kind':>16}  {'read':>7}  {'refused':>7}  {'failed':>7}  seconds", flush=True)
    for name in names:
        started = time.perf_counter()
        found = campaign(KINDS[name], count, seed, Path("mutations"))
        total.update(found)
        print(f"{name:>16}  {_row(found)}  {time.perf_counter() - started:7.1f}", flush=True)
        for outcome, times in found.most_common():
            if outcome not in (READ, REFUSED):
                print(f"{'':>18}{times} x {outcome}", flush=True)
    print(f"{'all':>16}  {_row(total)}")


def _row(found: Counter[str]) -> str:
    failed = sum(found.values()) - found[READ] - found[REFUSED]
    return f"{found[READ]:7d}  {found[REFUSED]:7d}  {failed:7d}"


if __name__ == "__main__":
    main()
