"""Damage in the store, in arrays or entries, is noticed and the case built again as it was."""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import replace

import numpy as np
import pytest

import layouts
from mlla_seg.data.card import load_card
from mlla_seg.data.layouts import find_cases
from mlla_seg.data.store.case import KINDS, stamp_of
from mlla_seg.data.store.entry import read_entry, write_entry
from mlla_seg.data.store.opening import open_store

CARD = load_card("hippocampus")
NAME = "hippocampus_000"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Root of one small case, and its store."""
    folder = tmp_path_factory.mktemp("damage")
    layouts.hippocampus(folder / "data", cases=1)
    opened(folder)
    return folder


def opened(place, verify=False):
    (case,) = open_store(CARD, find_cases(CARD, place / "data"), place / "data", place / "store", verify)
    return case


def content(place):
    return {kind: (place / f"store/{NAME}.{kind}.npy").read_bytes() for kind in KINDS}


def renew(place, entry, path):
    """Let an entry name the present times of an array, but not its content."""
    arrays = {**entry.arrays, "image": replace(entry.arrays["image"], stamp=stamp_of(path))}
    write_entry(place / "store", NAME, replace(entry, arrays=arrays))


def mutations():
    """Values of a JSON in place of others, by the path of keys."""
    for key in ("version", "reading", "sources", "arrays", "shape", "voxels", "spacing_mm", "warped", "notes"):
        for value in (None, -1, float("nan"), "text", [], {}, [0, -1, 2], True, 10**30):
            yield (key,), value
    for value in (0, -6, 1e300, "6", None):
        yield ("shape", 0), value
        yield ("voxels", 1), value
        yield ("arrays", "image", "stamp", 0), value


@pytest.mark.parametrize("signed", [False, True])
def test_entry_with_a_changed_value_is_not_read_or_the_case_is_built_again(place, signed):
    path = place / f"store/{NAME}.json"
    good = path.read_bytes()
    shape = opened(place).shape
    for keys, value in mutations():
        entry = json.loads(good)["entry"]
        holder = entry
        for key in keys[:-1]:
            holder = holder[key]
        holder[keys[-1]] = value
        text = json.dumps(entry)
        checksum = f"{zlib.crc32(text.encode()):08x}" if signed else json.loads(good)["checksum"]
        path.write_text(f'{{"checksum": "{checksum}", "entry": {text}}}')
        found = read_entry(place / "store", NAME)  # of a signed entry, all types are right
        assert found is None or (signed and len(found.shape) == 4 and min(found.shape) > 0), (keys, value)
    path.write_bytes(good)
    assert opened(place).shape == shape


def test_damaged_entry_is_rebuilt_and_said(place, capsys):
    path, expected = place / f"store/{NAME}.json", content(place)
    rng = np.random.default_rng(0)
    for _ in range(6):
        damaged = bytearray(path.read_bytes())
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        opened(place)
        note = "note: 1 case of hippocampus is built again, as the store's entry was damaged or of another version"
        assert f"{note}, such as {NAME}" in capsys.readouterr().err
        assert content(place) == expected
    path.write_bytes(b"")
    opened(place)
    assert content(place) == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("restored", [False, True])
def test_flipped_bit_of_an_array_is_noticed_at_the_next_start(place, capsys, kind, restored):
    expected, path = content(place), place / f"store/{NAME}.{kind}.npy"
    before, damaged = path.stat(), bytearray(expected[kind])
    damaged[-3] ^= 16
    path.write_bytes(damaged)
    if restored:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    opened(place)
    note = f"note: 1 case of hippocampus is built again, as arrays in the store were damaged, such as {NAME}.{kind}.npy"
    assert note in capsys.readouterr().err
    assert content(place) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_array_that_is_cut_or_gone_is_built_again(place, kind):
    expected, path = content(place), place / f"store/{NAME}.{kind}.npy"
    path.write_bytes(expected[kind][:-1])
    opened(place)
    assert content(place) == expected
    path.unlink()
    opened(place)
    assert content(place) == expected


def test_verify_finds_what_times_do_not_tell(place, capsys, monkeypatch):
    monkeypatch.setattr("mlla_seg.data.store.sources.SETTLED_NS", -(10**9))  # sources as new as these are trusted
    (place / f"store/{NAME}.json").unlink()
    opened(place)
    expected, path = content(place), place / f"store/{NAME}.image.npy"
    damaged = bytearray(expected["image"])
    damaged[-3] ^= 16
    path.write_bytes(damaged)
    entry = read_entry(place / "store", NAME)
    renew(place, entry, path)  # as if the disk had changed it, without the file system knowing
    assert opened(place).stem.name == NAME
    assert content(place) != expected
    opened(place, verify=True)
    assert f"arrays in the store were damaged, such as {NAME}.image.npy" in capsys.readouterr().err
    assert content(place) == expected
