"""Names as they are shown, and that all that is printed goes through it."""

import io
import sys

import pytest

from mlla_seg import progress
from mlla_seg.cli import main
from mlla_seg.visible import visible

SHOWN = {
    "liver": "liver",
    "größe 肝 👩‍⚕️": "größe 肝 👩‍⚕️",  # with a joiner
    "a\nb\r\tc": r"a\nb\r\tc",
    "\x1b[2J": r"\x1b[2J",
    "\x1b]52;c;aGk=\x07": r"\x1b]52;c;aGk=\x07",
    "\u202etxt.exe": r"\u202etxt.exe",
    "\u2028\ufeff\x00\x9b": r"\u2028\ufeff\x00\x9b",
    "caf\udce9": r"caf\xe9",  # a byte of a Latin-1 file name
    "$_{ %s <b> 'a' \\": "$_{ %s <b> 'a' \\",
    "": "",
}


@pytest.mark.parametrize("text", SHOWN)
def test_signs_without_a_shape_are_spelled_out(text):
    assert visible(text) == SHOWN[text]


def test_line_breaks_of_tables_stay():
    assert visible("a\n\x1bb", keep="\n") == "a\n\\x1bb"


@pytest.mark.parametrize("text", SHOWN)
def test_what_is_printed_is_visible(text, capsys):
    progress.say(text)
    progress.note(f"note: {text}")
    progress.complain(text.replace("\n", ""))
    progress.note_files([text], "x", "are skipped")
    out, err = capsys.readouterr()
    assert out == visible(text, keep="\n") + "\n"
    assert f"note: {SHOWN[text]}\n" in err
    assert f"x are skipped: {SHOWN[text]}" in err
    assert not {"\x1b", "\r", "\u202e", "\udce9"} & set(out + err)


def test_a_bar_shows_its_title(capsys):
    with progress.progress(1, "\x1b[2J\u202e", "image") as bar:
        bar.update()
    assert r"\x1b[2J\u202e" in capsys.readouterr().err


def test_a_terminal_without_a_sign_does_not_stop_the_program(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    progress.say("肝 liver")
    stream.seek(0)
    assert stream.read() == "\\u809d liver\n"


def test_errors_of_the_command_line_are_visible(capsys):
    with pytest.raises(SystemExit):
        main(["\x1b[2J"])
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert err.startswith("error: Unknown command")
