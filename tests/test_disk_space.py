"""Full disks: reserved before they are used, recognised by any sign, told with the right folder."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from mlla_seg import disk_space
from mlla_seg.atomic import renamed_when_done, replace_content, unfinished_folder
from mlla_seg.errors import InputError
from small_disk import on_small_disk


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def message_of(work, folder):
    """Return the error of a write and what is left in the folder."""
    with pytest.raises(InputError) as error:
        work(folder)
    return str(error.value), names(folder)


def test_an_array_is_an_error_and_not_the_end_of_the_process(tmp_path):
    def work(folder):
        disk_space.reserved_array(folder / "small.npy", np.uint8, (2**20,))[:] = 1
        with renamed_when_done(folder / "labels.npy") as temporary:
            disk_space.reserved_array(temporary, np.float32, (1000, 1000))[:] = 1

    message, left = on_small_disk(tmp_path / "disk", lambda folder: message_of(work, folder))
    disk = tmp_path / "disk"
    assert message == (
        f"{disk}/labels.npy: the disk is full: 4.0 MB are needed, 2.1 MB are free in {disk}. "
        "Free some space, then run the same command again."
    )
    assert left == ["small.npy"]


def test_an_array_is_an_ordinary_npy_file(tmp_path):
    path = tmp_path / "a.npy"
    array = disk_space.reserved_array(path, np.int16, (3, 4))
    array[1] = 7
    array.flush()
    assert path.stat().st_blocks > 0
    np.testing.assert_array_equal(np.load(path), [[0] * 4, [7] * 4, [0] * 4])
    assert disk_space.reserved_array(tmp_path / "empty.npy", np.uint8, (0, 4)).shape == (0, 4)


@pytest.mark.parametrize("missing", ["OSError", "AttributeError"])
def test_where_nothing_can_be_reserved_the_free_space_is_compared(tmp_path, monkeypatch, missing):
    def unable(*_):
        raise {"OSError": OSError(errno.EOPNOTSUPP, ""), "AttributeError": AttributeError()}[missing]

    monkeypatch.setattr(os, "posix_fallocate", unable)
    free = disk_space.shutil.disk_usage(tmp_path).free
    disk_space.reserved_array(tmp_path / "a.npy", np.uint8, (3,))
    with pytest.raises(disk_space.NoSpace) as error:
        disk_space.reserved_array(tmp_path / "b.npy", np.uint8, (free + 2**30,))
    assert error.value.needed > free and names(tmp_path) == ["a.npy"]


def test_the_earlier_file_is_kept(tmp_path):
    def work(folder):
        replace_content(folder / "a", bytes(10**6))
        replace_content(folder / "a", bytes(4 * 10**6), "Free some space.")

    message, left = on_small_disk(tmp_path / "disk", lambda folder: message_of(work, folder))
    assert "/a: the disk is full: 4.0 MB are needed, 2.1 MB are free in" in message
    assert message.endswith("/disk. The a before is kept. Free some space.") and left == ["a"]


def test_what_is_needed_at_least_is_said_where_the_size_is_unknown(tmp_path):
    def work(folder):
        with unfinished_folder(folder / "model") as unfinished:
            for k in range(9):
                (unfinished / f"{k}").write_bytes(bytes(10**6))

    message, left = on_small_disk(tmp_path / "disk", lambda folder: message_of(work, folder))
    assert "/model: the disk is full: more than 3.1 MB are needed, 3.1 MB are free in" in message and left == []


def test_a_disk_without_inodes(tmp_path):
    def work(folder):
        for k in range(20):
            replace_content(folder / f"{k}", b"x")

    message, _ = on_small_disk(tmp_path / "disk", lambda folder: message_of(work, folder), "size=3m,nr_inodes=10")
    assert "the disk takes no more files: all 10 inodes of" in message


def test_files_above_the_limit_of_their_size(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, hard))
    try:
        with pytest.raises(InputError, match=r"larger than its file system or ulimit -f allows: 2\.0 MB are needed"):
            replace_content(tmp_path / "a", bytes(2 * 10**6))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("[Errno 28] Can't write data (file write failed: errno = 28, error message = '...')"),
        RuntimeError("sqlite3_exec(COMMIT) failed: database or disk is full"),
        RuntimeError("TIFFAppendToStrip: No space left on device"),
    ],
    ids=str,
)
def test_every_sign_is_understood(tmp_path, error):
    with pytest.raises(InputError, match="a: the disk is full"), renamed_when_done(tmp_path / "a"):
        raise error


def test_a_cause_counts_and_quotas_are_told_apart(tmp_path):
    with pytest.raises(InputError, match="the disk quota is used up"), renamed_when_done(tmp_path / "a"):
        raise RuntimeError("writer failed") from OSError(errno.EDQUOT, "Disk quota exceeded")


def test_errors_without_a_reason_are_laid_to_a_full_disk_only(tmp_path):
    def work(folder):
        with renamed_when_done(folder / "a") as temporary, temporary.open("wb") as file:
            file.raw.write(bytes(4 * 10**6))  # a short write, as libraries in C meet it
            raise RuntimeError("encoder error -2")

    message, left = on_small_disk(tmp_path / "disk", lambda folder: message_of(work, folder))
    assert "a: the disk is full: more than 3.1 MB are needed" in message and left == []
    with pytest.raises(RuntimeError, match="encoder"), renamed_when_done(tmp_path / "a"):
        raise RuntimeError("encoder error -2")


def test_the_folder_for_temporary_files_is_blamed_if_it_is_the_full_one(tmp_path, monkeypatch):
    def work(folder):
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        with renamed_when_done(tmp_path / "a"), (folder / "scratch").open("wb") as file:
            file.write(bytes(4 * 10**6))

    message, _ = on_small_disk(tmp_path / "disk", lambda folder: message_of(work, folder))
    assert message.startswith(f"{tmp_path}/a: the disk is full: only 0 bytes are free in {tmp_path}/disk. ")


def test_other_errors_are_none_of_a_full_disk():
    assert disk_space.told(PermissionError(errno.EACCES, "Permission denied")) is None
    assert disk_space.told(RuntimeError("a bug")) is None
    text = disk_space.told(OSError(errno.ENOSPC, "No space left on device", str(Path("x/y"))))
    assert text.startswith("the disk is full: ") and text.endswith("Free some space, then run the same command again.")
