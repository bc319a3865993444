"""Descriptions of nnU-Net folders: what is wrong is named in one line."""

from __future__ import annotations

import json

import pytest

from mlla_seg.data.dataset_json import read_description
from mlla_seg.errors import InputError

GOOD = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz", "numTraining": 3}


def described(folder, **changes):
    path = folder / "dataset.json"
    path.write_text(json.dumps({key: value for key, value in {**GOOD, **changes}.items() if value is not ...}))
    return read_description(path)


def test_unknown_keys_are_left_to_others(tmp_path):
    found = described(tmp_path, overwrite_image_reader_writer="SimpleITKIO", licence=None, description=["x"])
    assert (found.channels, found.labels, found.ignore, found.ending) == (
        ("CT",),
        {0: "background", 1: "a"},
        None,
        ".nii.gz",
    )


@pytest.mark.parametrize(
    "labels", [{"background": 0, "a": 1, "ignore": 2}, {"0": "background", "1": "a", "2": "ignore"}]
)
def test_only_a_declared_label_is_ignored(tmp_path, labels):
    found = described(tmp_path, labels=labels)
    assert (found.labels, found.ignore) == ({0: "background", 1: "a"}, 2)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"labels": ["background", "a"]}, "should be a mapping with labels"),
        ({"labels": ...}, "should be a mapping with labels"),
        ({"labels": {"a": 0, "background": 1}}, "labels give 'a' the id 0, which is that of the background"),
        ({"labels": {"background": 0, "a": "one"}}, "the label a is 'one', expected an id"),
        ({"labels": {"background": 0, "a": [1, "b"]}}, r"the label a is \[1, 'b'\], expected an id"),
        ({"labels": {"background": 0, "a": 1.5}}, "the label a is 1.5, expected an id"),
        ({"labels": {"background": 0, "a": -1}}, "the label a is -1, expected an id"),
        ({"labels": {"background": 0, "a": True}}, "the label a is True, expected an id"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "two labels have the id 1, one of them b"),
        ({"labels": {"background": 0, "a": 1, "ignore": 1}}, "two labels have the id 1, one of them ignore"),
        ({"labels": {"background": 0, "a": 65536}}, "the label a is 65536, .* from 0 to 65535"),
        ({"labels": {"background": 0, "a": [1, 2.5]}}, r"the label a is \[1, 2.5\], expected an id"),
        ({"labels": {"0": "background", "65536": "a"}}, "labels has '0': 'background'; .* from 0 to 65535"),
        ({"labels": {"background": 0, "ignore": "no"}}, "labels has 'ignore': 'no'"),
        ({"channel_names": ["CT"]}, r"channel_names is \['CT'\]; expected numbers"),
        ({"channel_names": {"0": "CT", "2": "PET"}}, "expected numbers"),
        ({"channel_names": {"0": 1}}, "expected numbers"),
        ({"channel_names": ..., "modality": "CT"}, "modality is 'CT'; expected numbers"),
        ({"file_ending": 3}, r"file_ending is 3; expected one of \.nii, \.nii\.gz"),
        ({"file_ending": "nii.gz"}, r"file_ending is 'nii\.gz'; expected one of"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path, changes, problem):
    with pytest.raises(InputError, match=rf"dataset\.json.* {problem}") as caught:
        described(tmp_path, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"labels": {"a": 0}', "is not valid JSON"),
        ('{"labels": {"é": 0}}'.encode("latin-1"), r"is not UTF-8 text \(byte 13 is 0xe9\)"),
        (b"[]", "should be a mapping with labels"),
        (b"", "is not valid JSON"),
    ],
)
def test_a_file_that_is_no_description_is_named(tmp_path, content, problem):
    path = tmp_path / "dataset.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=problem):
        read_description(path)


def test_a_byte_order_mark_is_no_fault(tmp_path):
    path = tmp_path / "dataset.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert read_description(path).labels == {0: "background", 1: "a"}
