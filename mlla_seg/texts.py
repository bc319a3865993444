"""Text files of users, YAML and JSON: in the encodings of all systems, within bounds, and with every error reported in
one line.

Cards, configs, lists and descriptions are written by hand on any system, or come with the data of others. Files that
would fill the memory (YAML aliases of aliases) or exhaust Python (ten thousand brackets) are refused as any other
mistake is.
"""

from __future__ import annotations

import codecs
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from mlla_seg.errors import InputError

UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
LARGEST = {"YAML": 2**20, "JSON": 2**26, "text": 2**26}
"""Largest sizes in bytes: PyYAML reads about 100 kB per second; a JSON of folds has a line per case and fold."""


def read_text(path: Path, errors: str = "strict", line_feeds: bool = True) -> str:
    """Return a text file in UTF-8 or, with its byte-order mark, UTF-16, with line feeds whatever its system.

    Args:
        path: The file.
        errors: ``strict``, or ``surrogateescape`` to keep bytes that are not UTF-8 as Python keeps them in file names.
        line_feeds: Replace the line ends of other systems; false keeps them, as within the cells of a table.

    Raises:
        InputError: It is not such a text; names the first byte that is not.
    """
    text = _decoded(path, _bytes(path, "text"), errors)
    return text.replace("\r\n", "\n").replace("\r", "\n") if line_feeds else text


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file without surrounding blanks, and without empty lines.

    Line ends of any system are accepted. Bytes that are not UTF-8 are kept, so that they still name a file.
    """
    text = read_text(path, "surrogateescape")
    lines = (line.strip() for line in text.split("\n"))
    return [line for line in lines if line]


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        InputError: It is not text or not JSON, is nested too deep, repeats a key, or holds a NaN or infinite number.
    """
    text = _decoded(path, _bytes(path, "JSON"))
    try:
        return json.loads(
            text, object_pairs_hook=_without_repetition, parse_constant=_refuse_constant, parse_float=_finite
        )
    except RecursionError:
        raise InputError(f"{path}: has too many brackets within each other to be read.") from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {_short(error)}.") from error


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file of plain values.

    Raises:
        InputError: It is not text or not YAML, is nested too deep or too large, or repeats a key.
    """
    import yaml

    from mlla_seg.bounded_yaml import BoundedLoader

    text = _decoded(path, _bytes(path, "YAML"))
    try:
        return yaml.load(text, BoundedLoader)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
        # PyYAML raises all of them, for example for a date of month 13 or an empty value with the tag !!int
        raise InputError(f"{path} is not valid YAML: {_short(error)}.") from error


def require_bounded(text: str) -> None:
    """Raise if a text that another library is going to read as YAML goes beyond the bounds of :func:`read_yaml`."""
    import yaml

    from mlla_seg.bounded_yaml import BoundedLoader

    try:
        yaml.compose(text, BoundedLoader)
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, ArithmeticError):  # such as a character with too large a number
        return  # that library says what is wrong


def require_utf8(path: Path) -> None:
    """Raise if a file is in UTF-16, which another library is going to read as UTF-8."""
    if _bytes(path, "text").startswith(UTF16):
        raise InputError(f"{path}: is in the encoding UTF-16. Save it as UTF-8.")


def _bytes(path: Path, kind: str) -> bytes:
    if not path.is_file():
        raise InputError(f"{path}: {'is no file' if path.exists() else 'no such file'}.")
    size, most = path.stat().st_size, LARGEST[kind]
    if size > most:
        raise InputError(f"{path}: has {size / 1e6:.0f} MB, too much for {kind} ({most / 1e6:.0f} MB at most).")
    return path.read_bytes()


def _decoded(path: Path, content: bytes, errors: str = "strict") -> str:
    encoding = "utf-16" if content.startswith(UTF16) else "utf-8-sig"
    try:
        text = content.decode(encoding, errors if encoding == "utf-8-sig" else "strict")
    except UnicodeDecodeError as error:
        name = "UTF-16" if encoding == "utf-16" else "UTF-8"
        raise InputError(
            f"{path} is not {name} text (byte {error.start} is 0x{error.object[error.start]:02x}): save it in the "
            "encoding UTF-8."
        ) from error
    if (at := text.find("\0")) >= 0:
        raise InputError(f"{path} is not a text file (character {at} is NUL): save it in the encoding UTF-8.")
    return text


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for key, count in Counter(key for key, _ in pairs).items():
        if count > 1:
            raise ValueError(f"the key {key!r} is given twice")
    return dict(pairs)


def _finite(digits: str) -> float:
    return float(digits) if math.isfinite(float(digits)) else _refuse_constant(digits)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _short(error: Exception) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return (words if len(words) <= 300 else f"{words[:300]} ...").rstrip(".")
