"""Texts, YAML and JSON of strangers: read, or refused in one line and at once."""

import json

import pytest

from mlla_seg.errors import InputError
from mlla_seg.texts import read_json, read_lines, read_text, read_yaml, require_bounded, require_utf8

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{k + 1}: &a{k + 1} [{', '.join([f'*a{k}'] * 9)}]\n" for k in range(9))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_texts_of_all_systems_are_read(tmp_path, encoding):
    path = tmp_path / "x"
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    path.write_bytes(f'{mark}{{"größe": 1}}\r\n'.encode(encoding))
    assert read_text(path).strip() == '{"größe": 1}'
    assert read_yaml(path) == read_json(path) == {"größe": 1}
    assert read_lines(path) == ['{"größe": 1}']
    if "16" in encoding:
        with pytest.raises(InputError, match="UTF-16"):
            require_utf8(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a: caf\xe9", r"is not UTF-8 text \(byte 6 is 0xe9\)"),
        (b"\xff\xfea", r"is not UTF-16 text \(byte 2 is 0x61\)"),
        ("a: b".encode("utf-16-le"), r"is not a text file \(character 1 is NUL\)"),
    ],
)
@pytest.mark.parametrize("read", [read_text, read_yaml, read_json])
def test_what_is_no_text_is_named_with_its_byte(tmp_path, read, content, problem):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(InputError, match=problem):
        read(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (LAUGHS, "has more than 100,000 values"),
        ("[" * 10_000, "has more than 100 lists"),
        ("- " * 10_000, "has more than 100 lists"),
        ("{a: " * 5_000, "has more than 100 lists"),
        ("a: &a [*a]", r"line 1: \*a stands within what it names"),
        ("a: 1\na: 2", "the key 'a' is given twice in the mapping from line 1"),
        ("a: " + "9" * 5_000 + "!", None),
        ("a: !!int", "is not valid YAML"),
        ("a: !!timestamp x", "is not valid YAML"),
        ("a: !!bool x", "is not valid YAML"),
        ("a: 2020-13-45", "month must be in 1..12"),
        ("a: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        ("a: *b", "undefined alias"),
        ("? [1]\n: 2", "unhashable key"),
        ("a: \x1b", "special characters are not allowed"),
        ("a: b: c", "mapping values are not allowed"),
    ],
)
def test_yaml_is_bounded(tmp_path, text, problem):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    if problem is None:
        assert read_yaml(path)
        return
    with pytest.raises(InputError, match=problem) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_anchors_and_merged_mappings_stay(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("base: &b {a: 1, c: 3}\nown: {<<: *b, a: 2}\nboth: {<<: [*b, *b]}\nlist: [*b, *b]\n")
    base = {"a": 1, "c": 3}
    assert read_yaml(path) == {"base": base, "own": {"a": 2, "c": 3}, "both": base, "list": [base, base]}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 100_000, "too many brackets"),
        ('{"a": 1, "a": 2}', "the key 'a' is given twice"),
        ("[NaN]", "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("[1e999]", "1e999 is no number"),
        ("[", "Expecting value"),
        ("", "Expecting value"),
    ],
)
def test_json_is_strict(tmp_path, text, problem):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InputError, match=problem):
        read_json(path)


def test_sizes_are_bounded_before_anything_is_read(tmp_path):
    path = tmp_path / "x.yaml"
    with path.open("wb") as file:
        file.truncate(2**40)  # takes no space
    for read in (read_text, read_yaml, read_json):
        with pytest.raises(InputError, match=r"x\.yaml: has 1099512 MB, too much"):
            read(path)


def test_folders_and_absent_files_are_named(tmp_path):
    for path, problem in ((tmp_path, "is no file"), (tmp_path / "x", "no such file")):
        with pytest.raises(InputError, match=problem):
            read_yaml(path)


def test_what_another_library_reads_is_within_the_same_bounds():
    for text in (LAUGHS, "[" * 200 + "]" * 200):
        with pytest.raises(InputError, match="has more than"):
            require_bounded(text)
    for text in ("a: b: c", "[", "x" * 10_000, "a: [1, 2]", '"\\UFFFFFFFF"'):  # which that library refuses, or reads
        require_bounded(text)


def test_line_ends_within_tables_are_kept(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"a\r\nb\rc")
    assert read_text(path, line_feeds=False) == "a\r\nb\rc"
    assert read_text(path) == "a\nb\nc"


def test_lists_keep_bytes_of_file_names(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"caf\xe9.png\r\n\r\n b \r")
    assert read_lines(path) == ["caf\udce9.png", "b"]


def test_large_numbers_are_read_or_named(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"a": int("9" * 4_000)}))
    assert read_json(path)["a"] > 0
