"""Why files below a folder are not cases of a card: what nearly fits its patterns, and masks without an image."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import product
from string import Formatter

from mlla_seg.data.card_sections import MASKS, Layout
from mlla_seg.data.formats.registry import READERS, SERIES, suffix_in
from mlla_seg.data.formats.vector_sources import is_vector
from mlla_seg.data.tree import Tree, is_image, stem_of, uniform

SHOWN = 3
"""Files shown when none is a case."""
SUFFIXES = tuple(suffix for suffix in READERS if suffix != SERIES)


def match_name(pattern: str, name: str) -> re.Match[str] | None:
    """Match a path below the root with a pattern of a card, whatever the case of its suffix."""
    expression, suffix = _compiled(pattern), suffix_in(name)
    for written in dict.fromkeys((name, stem_of(name) + suffix, stem_of(name) + suffix.upper())):
        if match := expression.fullmatch(written):
            return match
    return None


@lru_cache
def _compiled(pattern: str, flags: int = 0) -> re.Pattern[str]:
    return re.compile(pattern, flags | re.DOTALL)  # a name may hold a line break


def near_miss(layout: Layout, name: str, above: str, most: int = 3) -> str | None:
    """Return how a path differs from the most similar one that a pattern of the layout matches.

    Args:
        layout: Layout with the patterns.
        name: The path below the root.
        above: Name of the root.
        most: Number of differences above which none is returned.
    """
    found = min(_differences(layout, name, above), key=len, default=[])
    return " and ".join(found) if 0 < len(found) <= most else None


def _differences(layout: Layout, name: str, above: str) -> Iterator[list[str]]:
    *folders, last = name.split("/")
    places = [(name, "")]
    places += [
        ("/".join([*folders[:k], *folders[k + 1 :], last]), f"it lies one folder deeper, in {folder}/")
        for k, folder in enumerate(folders)
    ]
    places += [(f"{above}/{name}", f"the root should be the folder above {above}/")]
    own = suffix_in(name)
    for (path, deeper), suffix in product(places, (own, *SUFFIXES)):
        changed = stem_of(path) + suffix
        other = f"its suffix is {own or 'missing'}, not {suffix}" if suffix != own else ""
        for pattern in layout.patterns:
            relaxed = _any_split(pattern)
            for expression, flags, differs in (
                (pattern, 0, ""),
                (pattern, re.IGNORECASE, "upper and lower case differ"),
                (relaxed, 0, "its folder stands for no split"),
            ):
                if _compiled(expression, flags).fullmatch(changed):
                    yield [text for text in (deeper, other, differs) if text]


def _any_split(pattern: str) -> str:
    """Return a pattern whose group ``split`` matches any folder."""
    group = _group(pattern, "split")
    return pattern.replace(group, "[^/]+", 1) if group else pattern


def _group(pattern: str, name: str) -> str:
    """Return the text of a named group in a regular expression, with its parentheses; empty if there is none."""
    start = pattern.find(f"(?P<{name}>")
    depth, place, listed = 0, start, False
    while start >= 0 and place < len(pattern):
        sign = pattern[place]
        if sign == "\\":
            place += 1
        elif listed:
            listed = sign != "]"
        elif sign == "[":
            listed = True
            place += pattern[place + 1 : place + 2] in ("]", "^")
        else:
            depth += (sign == "(") - (sign == ")")
            if depth == 0:
                return pattern[start : place + 1]
        place += 1
    return ""


def masks_without_image(layout: Layout, tree: Tree, others: Sequence[str]) -> list[str]:
    """Return those of the other names that are masks, by the templates and the groups of the patterns."""
    places = [place for key in MASKS for place in layout.places(key)]
    shapes = [_shape(pattern, place) for pattern, place in product(layout.patterns, places)]
    return [
        name
        for name in others
        if is_image(name) or is_vector(name) or name in tree.series
        if any(shape and shape.fullmatch(uniform(name)) for shape in shapes)
    ]


def _shape(pattern: str, template: str) -> re.Pattern[str] | None:
    """Return the expression of all paths that a template can stand for; none if it cannot be told."""
    written = ""
    for text, field, spec, _ in Formatter().parse(template):
        written += "[^/]*".join(map(re.escape, text.split("*")))
        if field is not None:
            own = re.sub(r"\(\?P<\w+>", "(?:", _group(pattern, field))
            written += "[^/]+" if spec else own
    try:
        return re.compile(written, re.DOTALL)
    except re.error:
        return None


def explain(layout: Layout, tree: Tree, reasons: Mapping[str, str]) -> str:
    """Return lines with some of the files below a folder and, where it is known, why they are not cases."""
    if not tree.names:
        return f"  It holds links that lead nowhere: {tree.broken[0]}" if tree.broken else "  It holds no file."
    kinds: dict[tuple[str, str], str] = {}
    for name in sorted(tree.names, key=lambda name: (name not in reasons, not is_image(name))):
        kinds.setdefault((name.rpartition("/")[0], suffix_in(name)), name)  # one of each folder and format
    above = tree.root.absolute().name
    known = {name: reasons.get(name) or near_miss(layout, name, above) for name in kinds.values()}
    shown = sorted(known, key=lambda name: known[name] is None)[:SHOWN]
    lines = [f"    {name}    ({known[name] or 'fits no pattern of the card'})" for name in shown]
    return f"  Found {len(tree.names)} file{'s' if len(tree.names) > 1 else ''}, such as:\n" + "\n".join(lines)
