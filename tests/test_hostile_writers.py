"""Hostile names of classes, cases and files in every file that is written: none has an effect, all come back."""

from __future__ import annotations

import csv
import json
import os

import numpy as np
import pyogrio
import pytest
import yaml
from PIL import Image

from hostile import NAMES, ORDERS, UNSEEN
from jobs import Pixelwise, small_job, spec_of
from layouts import write_scene
from maps import noise
from mlla_seg import Predictor, create_model
from mlla_seg.data.card import load_card
from mlla_seg.data.formats.classes import ClassInfo
from mlla_seg.data.formats.polygons import PolygonOptions, write_polygons
from mlla_seg.evaluation.score_tables import write_latex_table
from mlla_seg.evaluation.tables import read_csv
from mlla_seg.export.bundle import _inert, _readme, metadata
from mlla_seg.export.deepness import write_deepness
from mlla_seg.export.onnx import write_onnx
from mlla_seg.inference.files import segment_files
from mlla_seg.inference.scenes import MapOptions
from mlla_seg.inference.summaries import Summaries
from mlla_seg.planning.choices import Choice
from mlla_seg.planning.writing import write_yaml
from mlla_seg.runtime import Segmenter
from mlla_seg.texts import read_yaml
from samples import write_card

EVALUATED = [
    "$__import__('os').system('id')",
    "@run",
    "%/etc/passwd",
    "$import os",
    "a|b",
    "[x](http://y)",
    "true",
    "1e3",
    "~",
]
CLASSES = [name for name in [*NAMES, *EVALUATED] if len(name) <= 200]
THREE = [CLASSES[k : k + 3] for k in range(0, len(CLASSES) - 2, 3)]


@pytest.mark.parametrize("format", ["gpkg", "geojson"])
def test_polygons_have_the_names_of_their_classes(tmp_path, format):
    classes = [ClassInfo(name, (0, 0, 0), k) for k, name in enumerate(CLASSES)]
    labels = np.arange(len(CLASSES), dtype=np.uint8).repeat(8).reshape(1, 1, -1).repeat(8, axis=1)
    write_scene(tmp_path / "map.tif", labels, nodata=255)
    write_polygons(tmp_path / f"map.{format}", tmp_path / "map.tif", classes, None, PolygonOptions(format))
    _, _, _, (names, ids, _) = pyogrio.raw.read(tmp_path / f"map.{format}")
    assert dict(zip(ids.tolist(), names, strict=True)) == dict(enumerate(CLASSES))


def test_masks_tables_and_pictures_of_files_of_any_name(tmp_path, capsys):
    os.mkdir(tmp_path / "in")
    stems = [name[:100].replace("/", "\u2044") for name in [*NAMES, *UNSEEN]]
    for stem in stems:
        Image.fromarray(noise(8, 9)).save(tmp_path / "in" / f"{stem}.png")
    predictor = Predictor(Pixelwise(), spec_of(classes=["background", *THREE[0][:2]]))
    segment_files(
        predictor, tmp_path / "in", tmp_path / "out", MapOptions(probabilities=True), summaries=Summaries(True, True)
    )
    for stem in stems:
        for suffix in (".png", ".preview.png", ".probabilities.h5"):
            assert os.path.lexists(tmp_path / "out" / f"{stem}{suffix}")
    assert sorted(row["mask"] for row in read_csv(tmp_path / "out/statistics.csv")) == sorted(f"{s}.png" for s in stems)
    with (tmp_path / "out/statistics.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    said = capsys.readouterr()
    assert not ORDERS & (set(said.out + said.err) - {"\r"})  # of the progress bar


@pytest.mark.parametrize("names", THREE, ids=range(len(THREE)))
def test_exports_bring_names_back(tmp_path, names):
    write_onnx(small_job(classes=names), tmp_path / "m.onnx")
    assert list(Segmenter(tmp_path / "m.onnx").spec.class_names) == names


def test_deepness_gets_the_names_as_they_are(tmp_path):
    import onnx

    write_deepness(small_job(outputs="probabilities", classes=THREE[1], tile=64), tmp_path / "m.onnx")
    facts = {
        entry.key: json.loads(entry.value)
        for entry in onnx.load(tmp_path / "m.onnx").metadata_props
        if entry.key != "mlla_seg_checksums"
    }
    assert list(facts["class_names"].values()) == THREE[1]


@pytest.mark.parametrize("names", THREE, ids=range(len(THREE)))
def test_monai_evaluates_no_name(tmp_path, names):
    parser = pytest.importorskip("monai.bundle").ConfigParser
    spec = spec_of(classes=names)
    (tmp_path / "metadata.json").write_text(json.dumps(_inert(metadata(spec))))
    found = parser()
    found.read_meta(tmp_path / "metadata.json")
    known = found.get_parsed_content("_meta_")["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert [name.removeprefix("'") for name in known.values()] == [name.removeprefix("'") for name in names]
    table = _readme(spec).split("| value | class |")[1]
    assert table.count("\n") == 2 + len(names)
    assert "<script" not in table.replace("\\<", "")


@pytest.mark.parametrize("names", THREE, ids=range(len(THREE)))
def test_model_cards_show_names_and_obey_none(tmp_path, names):
    network = create_model("mlla_test", "unet", 3, 1)
    network.spec = spec_of(classes=names, name="x`|<b>")
    network.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "<script" not in card.replace("\\<", "")
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "mlla_seg"
    rows = [line for line in card.split("## Classes")[1].split("##")[0].splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(names)


def test_planned_cards_bring_names_back(tmp_path):
    """Whatever stands in the reasons too, which are comments of a line each."""
    path = write_card(tmp_path / "card", "image_folder")
    content = yaml.safe_load(path.read_text())
    for name in [*UNSEEN, "\u2028name: x", "\x85name: x", "\x0cname: x"]:
        choices = {key: Choice(value, f"because of {name}") for key, value in content.items()}
        write_yaml(path, f"Planned from {name}.", {**choices, "title": Choice(f"title {name}")})
        assert read_yaml(path) == {**content, "title": f"title {name}"}
    for first, second in zip(CLASSES[::2], CLASSES[1::2], strict=False):
        classes = [{"name": name, "colour": [k, k, k]} for k, name in enumerate((first, second))]
        write_yaml(path, "Planned.", {**choices, "classes": Choice(classes, first)})
        assert list(load_card(path).class_names) == [first, second]


@pytest.mark.parametrize("name", [*NAMES, *UNSEEN])
def test_latex_has_a_line_for_each_row(tmp_path, name):
    write_latex_table(tmp_path / "t.tex", [name, "b"], [[name, 0.5]], f"a table of {name}")
    lines = (tmp_path / "t.tex").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 8
    assert lines[0].startswith("% a table of")
