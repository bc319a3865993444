"""Paths as they may be shared."""

import re
from pathlib import Path

import pytest

from mlla_seg.places import path_id, shareable, shareable_lines


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("phantom", "phantom"),
        ("runs/demo/version_0/checkpoints/best.ckpt", "runs/demo/version_0/checkpoints/best.ckpt"),
        ("/home/ann/demo/version_0/checkpoints/best.ckpt", "demo/version_0/checkpoints/best.ckpt"),
        ("/home/ann/p/runs/demo/version_0/checkpoints/best.ckpt", "demo/version_0/checkpoints/best.ckpt"),
        ("/home/ann/best.ckpt", "best.ckpt"),
        (f"/scratch/group/{Path.home().name}/version_0/checkpoints/last.ckpt", "version_0/checkpoints/last.ckpt"),
        ("/data/ann/cards/mine/dataset.yaml", "dataset.yaml"),
        ("/", "."),
        ("", ""),
    ],
)
def test_only_what_tells_runs_apart_is_kept(path, expected):
    assert shareable(path) == expected
    assert shareable(expected) == expected


def test_values_of_a_config_that_are_paths_are_shortened():
    text = "data:\n  root: /home/ann/my data\n  card: phantom\nplugins:\n- '/home/ann/x.yaml'\n  url: https://a.b/c\n"
    shared = shareable_lines(text)
    assert shared == "data:\n  root: my data\n  card: phantom\nplugins:\n- 'x.yaml'\n  url: https://a.b/c\n"
    assert not re.search("ann", shared)


def test_files_of_one_name_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert path_id("a/best.ckpt") == path_id(str(tmp_path / "a/best.ckpt")) != path_id("b/best.ckpt")
