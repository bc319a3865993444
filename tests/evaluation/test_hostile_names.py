"""Hostile names of cases and classes in tables, pages, LaTeX and pictures."""

import csv
import io
import math

import numpy as np
import pytest

from hostile import NAMES, ORDERS, UNSEEN
from mlla_seg.evaluation import html, plots, tables
from mlla_seg.evaluation.score_tables import _escape
from mlla_seg.study.scores import read_scored
from samples import classes_of, write_scored

ALL = [*NAMES, *UNSEEN, ""]


def test_a_csv_holds_no_formula_and_is_read_back_as_it_was(tmp_path):
    path = tmp_path / "table.csv"
    rows = [{"case": name, "value": -1.5, "text": "-2.5e-05", "=head": math.nan} for name in ALL]
    tables.write_csv(path, rows)
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        header, *cells = list(csv.reader(file))
    assert header == ["case", "value", "text", "'=head"]
    assert not [row[0] for row in cells if row[0].startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert {(row[1], row[2]) for row in cells} == {("-1.5", "-2.5e-05")}  # numbers stay numbers
    assert [row["case"] for row in tables.read_csv(path)] == ALL
    assert [*tables.read_csv(path)[0]] == ["case", "value", "text", "=head"]


def test_scores_are_read_with_the_names_that_were_written(tmp_path):
    folder = write_scored(tmp_path / "run", {name: {"=1+1": 0.5} for name in ALL[:-1]})
    found = read_scored(folder, "dice")
    assert found.cases == tuple(ALL[:-1])
    assert found.classes == ("=1+1",)


@pytest.mark.parametrize("text", ["a,b\n1", 'a\n"'])
def test_a_csv_that_is_cut_is_named(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    if text.endswith('"'):
        assert tables.read_csv(tmp_path / "t.csv") == [{"a": ""}]  # the csv module closes the quotation
    else:
        with pytest.raises(ValueError, match=r"t\.csv is not complete: row 2"):
            tables.read_csv(tmp_path / "t.csv")


@pytest.mark.parametrize("name", ALL)
def test_pages_show_names_and_obey_none(tmp_path, name):
    parts = [html.heading(name), html.note(name), html.table([name], [[name]]), html.folded(name, html.code(name))]
    html.write_page(tmp_path / "page.html", name, [*parts, html.figure(b"", name)])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert not ORDERS & set(page)


@pytest.mark.parametrize("name", ALL)
def test_tables_have_a_line_for_each_row(name):
    assert len(tables.format_table([name, "dice"], [[name, 0.5], [name, 0.5]]).splitlines()) == 4


@pytest.mark.parametrize("name", ALL)
def test_latex_takes_names_literally(name):
    text = _escape(name)
    for sign in "$_%{&#":
        assert text.replace(f"\\{sign}", "").count(sign) == text.count(r"\text") * (sign == "{")
    assert text.isascii() or not ORDERS & set(text)


def test_pictures_draw_every_name():
    classes = classes_of(NAMES)
    mask = np.arange(len(NAMES)).reshape(1, -1).repeat(4, axis=0)
    scores = [0.9] * 3 + [0.1] + [0.9] * (len(ALL) - 4)
    for draw in (
        lambda to: plots.plot_boxes(dict.fromkeys(NAMES, scores), ALL, [[0, 0, 0]] * len(NAMES), "Dice", to),
        lambda to: plots.plot_confusion(np.ones((len(NAMES), len(NAMES))), NAMES, to),
        lambda to: plots.plot_overlay(np.zeros((1, *mask.shape)), {"$_{": mask}, classes, to, title=UNSEEN[3]),
    ):
        file = io.BytesIO()
        draw(file)
        assert file.getvalue().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ALL)
def test_a_legend_shows_names_literally(name):
    plt = plots._pyplot()
    figure, axis = plt.subplots()
    axis.plot([0], [0], label=plots.plain(name))
    texts = axis.get_legend_handles_labels()[1]
    plt.close(figure)
    assert texts == ([plots.plain(name)] if name else [])
    assert not ORDERS & set(plots.plain(name))
