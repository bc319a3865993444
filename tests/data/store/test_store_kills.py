"""Builders that are killed, and several at once: the store ends as if one had built it without a break."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time

import pytest

import layouts
from mlla_seg.data.card import load_card
from mlla_seg.data.layouts import find_cases
from mlla_seg.data.store.case import KINDS
from mlla_seg.data.store.opening import open_store
from mlla_seg.locks import hold, release

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")
CARD = load_card("hippocampus")
FORK = multiprocessing.get_context("fork")
STEPS = ("os.mkdir", "os.rename")
"""What a builder does to the store: a folder for unfinished arrays, four arrays and the entry of each case."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    layouts.hippocampus(folder, cases=3)
    return folder


@pytest.fixture(scope="module")
def expected(root, tmp_path_factory):
    store = tmp_path_factory.mktemp("whole")
    build(root, store)
    return content(store)


def build(root, store):
    return open_store(CARD, find_cases(CARD, root), root, store)


def content(store):
    """Arrays by name."""
    return {path.name: path.read_bytes() for path in store.glob("*.npy")}


def kill_at(step):
    """Kill this process before it takes a step."""
    taken = 0

    def hook(event, _):
        nonlocal taken
        if event in STEPS:
            taken += 1
            if taken == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def start(job, *given):
    process = FORK.Process(target=job, args=given)
    process.start()
    return process


def killed_build(root, store, step):
    kill_at(step)
    build(root, store)


@pytest.mark.parametrize("step", [1, 2, 3, 5, 6, 8, 11, 14, 18])
def test_killed_build_goes_on_and_ends_as_an_unbroken_one(root, expected, tmp_path, step):
    process = start(killed_build, root, tmp_path, step)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    for entry in tmp_path.glob("[!.]*.json"):  # an entry stands for whole arrays
        name = entry.name.removesuffix(".json")
        for kind in KINDS:
            assert (tmp_path / f"{name}.{kind}.npy").read_bytes() == expected[f"{name}.{kind}.npy"]
    build(root, tmp_path)
    assert content(tmp_path) == expected
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize("step", [2, 4, 6])
def test_killed_rebuild_of_a_changed_case_is_not_taken_for_either(root, tmp_path, step):
    data, store = tmp_path / "data", tmp_path / "store"
    layouts.hippocampus(data, cases=1)
    build(data, store)
    before = content(store)
    source = next(data.glob("imagesTr/*"))
    source.write_bytes(sorted(root.glob("imagesTr/*"))[1].read_bytes())
    process = start(killed_build, data, store, step)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    build(data, store)
    whole = tmp_path / "whole"
    build(data, whole)
    assert content(store) == content(whole) != before


def test_processes_that_start_at_once_all_find_the_store(root, expected, tmp_path):
    processes = [start(build, root, tmp_path) for _ in range(3)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert content(tmp_path) == expected


def waiting_build(root, store, heard):
    with heard.open("w", buffering=1) as file, contextlib.redirect_stderr(file):
        build(root, store)


def test_a_process_waits_for_another_and_says_so(root, expected, tmp_path):
    store, heard = tmp_path / "store", tmp_path / "heard"
    store.mkdir()
    lock = hold(store, str)
    process = start(waiting_build, root, store, heard)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (heard.exists() and "waiting" in heard.read_text()):
        time.sleep(0.02)
    assert f"note: waiting, as {store}: process {os.getpid()} on" in heard.read_text()
    assert process.is_alive()
    release(lock)
    process.join(60)
    assert process.exitcode == 0
    assert content(store) == expected
