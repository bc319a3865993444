"""Locks of folders and files: one process at a time, whose name the others are told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from conftest import ROOT
from mlla_seg import locks

HOLDER = (
    "import sys, time; from pathlib import Path; from mlla_seg.locks import hold; lock = hold(Path(sys.argv[1]), str); "
)


def refusal(holder):
    return f"{holder} writes here"


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of the folder."""
    command = [sys.executable, "-c", HOLDER + "print('held', flush=True); time.sleep(60)", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_the_holder_is_named_and_a_kill_releases_its_lock(tmp_path, other):
    with pytest.raises(locks.Held, match=rf"^process {other.pid} on \S+ writes here$"), locks.held(tmp_path, refusal):
        pass
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    with locks.held(tmp_path, refusal):
        assert locks.holder(tmp_path).startswith(f"process {os.getpid()} on ")
    assert list(tmp_path.iterdir()) == []


def test_it_waits_as_long_as_asked_and_says_so_once(tmp_path, other, capsys):
    started = time.monotonic()
    with pytest.raises(locks.Held):
        locks.hold(tmp_path, refusal, wait=0.3, waiting=lambda holder: f"note: waiting for {holder}")
    assert time.monotonic() - started >= 0.3
    assert capsys.readouterr().err.count(f"note: waiting for process {other.pid}") == 1
    threading.Timer(0.2, other.kill).start()
    with locks.held(tmp_path, refusal, wait=30):
        pass


def test_a_file_is_locked_beside_it(tmp_path):
    path = tmp_path / "map.tif"
    with locks.held(path, refusal), locks.held(tmp_path / "other.tif", refusal):
        assert (tmp_path / ".map.tif.lock").is_file()
        with pytest.raises(locks.Held):
            locks.hold(path, refusal)
    assert list(tmp_path.iterdir()) == []


def test_lock_on_a_file_that_its_holder_has_removed_is_taken_anew(tmp_path, monkeypatch):
    acquire, calls = locks.FileLock.acquire, []

    def removed_at_first(self, *args, **kwargs):
        acquire(self, *args, **kwargs)
        calls.append(self)
        if len(calls) == 1:
            os.unlink(self.lock_file)

    monkeypatch.setattr(locks.FileLock, "acquire", removed_at_first)
    lock = locks.hold(tmp_path, str)
    with pytest.raises(locks.Held):  # who comes now sees it
        locks.hold(tmp_path, str)
    locks.release(lock)
    assert len(calls) == 2
