"""``DataSpec``: equal from a file, from version 0.1 and by hand; invalid ones are refused."""

from __future__ import annotations

import json
import re
from dataclasses import FrozenInstanceError, replace

import pytest

from jobs import REGIONS
from mlla_seg.data.dataspec import DataSpec, Normalisation
from mlla_seg.data.formats.classes import class_colour
from mlla_seg.data.regions import Region
from mlla_seg.data.slices import View
from mlla_seg.errors import InputError
from samples import classes_of

BY_HAND = {"channels": ["CT"], "classes": ["background", "liver"]}
TUMOUR = {"channels": ["MR"], **REGIONS}
FULL = DataSpec(
    name="abdomen",
    modality="CT and PET",
    channels=("CT", "PET"),
    bands=("PET", "CT", "dose"),
    classes=tuple(classes_of(["liver", "spleen", "rest"], [(150, 80, 60), (130, 90, 200), (0, 0, 0)], [6, 1, 300])),
    background=2,
    normalisation=Normalisation(mean=(40.0, 3.0), std=(20.0, 1.5), window=(-125.0, 275.0)),
    plane="coronal",
    array_units={"scale": 400, "offset": -125},
    spacing_mm=(None, 0.8, 0.7),
    resize=(224, 192),
    patch_size=(96, 64),
    context=1,
    mirrored=("rows", "columns"),
    nodata=-1024,
    nodata_rule="all",
    grid="PET",
)


def types_in(value):
    yield type(value)
    if isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from types_in(part)


@pytest.mark.parametrize(
    "spec",
    [
        FULL,
        replace(FULL, resize=0.5, normalisation=Normalisation(per_case=True)),
        DataSpec.from_dict(BY_HAND),
        DataSpec.from_dict(TUMOUR),
    ],
    ids=["full", "factor and whole cases", "by hand", "regions"],
)
def test_specs_come_back_from_json(spec):
    content = spec.to_dict()
    assert content["spec_version"] == 2
    assert set(types_in(content)) <= {dict, list, str, int, float, bool, type(None)}
    assert DataSpec.from_dict(content) == DataSpec.from_dict(json.loads(json.dumps(content))) == spec
    assert DataSpec.of(content) == spec
    assert DataSpec.of(spec) is spec


def test_the_dict_says_all_there_is():
    assert FULL.to_dict() == {
        "spec_version": 2,
        "name": "abdomen",
        "modality": "CT and PET",
        "channels": ["CT", "PET"],
        "bands": ["PET", "CT", "dose"],
        "classes": [
            {"name": "liver", "colour": [150, 80, 60], "id": 6},
            {"name": "spleen", "colour": [130, 90, 200], "id": 1},
            {"name": "rest", "colour": [0, 0, 0], "id": 300},
        ],
        "background": 2,
        "normalisation": {"mean": [40.0, 3.0], "std": [20.0, 1.5], "window": [-125.0, 275.0]},
        "plane": "coronal",
        "array_units": {"scale": 400, "offset": -125},
        "spacing_mm": [None, 0.8, 0.7],
        "resize": [224, 192],
        "patch_size": [96, 64],
        "context": 1,
        "mirrored": ["rows", "columns"],
        "nodata": -1024,
        "nodata_rule": "all",
        "grid": "PET",
        "regions": [],
        "postprocessing": [],
    }


def test_what_version_0_1_wrote_is_read():
    content = FULL.to_dict()
    del content["spec_version"]
    old = {"window": content.pop("patch_size"), "ignore_index": 255, **content}
    assert DataSpec.from_dict(old) == DataSpec.from_dict({**old, "mirrored": True}) == FULL
    assert DataSpec.from_dict({**old, "mirrored": False}).mirrored == ()
    assert DataSpec.from_dict({**old, "window": None}).patch_size is None


def test_channels_and_classes_by_name_are_enough():
    spec = DataSpec.from_dict(BY_HAND)
    assert spec.classes == tuple(classes_of(["background", "liver"], [(0, 0, 0), class_colour(1)], [0, 1]))
    assert (spec.class_names, spec.background) == (["background", "liver"], 0)
    assert spec.channels == spec.bands == ("CT",)
    assert (spec.name, spec.modality, spec.plane, spec.mirrored) == ("unnamed", "", "axial", ())
    assert (spec.normalisation, spec.array_units, spec.view) == (Normalisation(), None, View())
    assert spec.in_channels == 1


def test_a_class_is_a_name_or_says_its_colour_and_id_too():
    classes = ["liver", {"name": "spleen", "id": 7}, {"name": "gallbladder", "colour": [0, 200, 0]}]
    spec = DataSpec.from_dict({"channels": ["CT"], "classes": classes})
    colours = [(0, 0, 0), class_colour(1), (0, 200, 0)]
    assert spec.classes == tuple(classes_of(["liver", "spleen", "gallbladder"], colours, [0, 7, 2]))
    assert spec.background is None


@pytest.mark.parametrize(
    ("classes", "given", "background"),
    [
        (["background", "liver"], {}, 0),
        (["liver", "background"], {}, None),
        (["background", "liver"], {"background": None}, None),
        (["liver", "rest"], {"background": 1}, 1),
    ],
)
def test_the_background_is_the_first_class_of_that_name_unless_it_is_said(classes, given, background):
    assert DataSpec.from_dict({"channels": ["CT"], "classes": classes, **given}).background == background


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"channels": ["CT"]}, "m.onnx: lacks classes. Give at least the names of channels and classes, such as "),
        ({"classes": ["liver"], "channels": []}, 'm.onnx: lacks channels. Give at least .* {"channels": ["CT"], '),
        ({}, "m.onnx: lacks channels and classes. "),
        ({**BY_HAND, "spacing": [1, 1, 1]}, "key in m.onnx: 'spacing'. Did you mean spacing_mm? Known: "),
        ({**BY_HAND, "patchsize": [8, 8]}, "'patchsize'. Did you mean patch_size?"),
        ({**BY_HAND, "classes": ["background", {"colour": [1, 2, 3]}]}, "m.onnx: class 1 has no name, found {'colour'"),
        (
            {**BY_HAND, "spec_version": 3, "depth": 1},
            "m.onnx: was written by a newer version of mlla_seg (spec_version 3, this one reads up to 2). Install",
        ),
    ],
)
def test_what_cannot_be_taken_is_answered(content, message):
    with pytest.raises(InputError, match=re.escape(message).replace(r"\.\*", ".*")):
        DataSpec.from_dict(content, "m.onnx")


def test_the_view_is_what_the_spec_says():
    assert FULL.view == View((None, 0.8, 0.7), (224, 192), (96, 64), context=1)
    assert replace(FULL, normalisation=Normalisation(per_case=True)).view.per_case
    assert FULL.in_channels == 2 * 3


@pytest.mark.parametrize("context", [0, 1, 2])
def test_numbers_of_the_normalisation_are_repeated_for_neighbouring_slices(context):
    slices = 2 * context + 1
    assert FULL.normalisation.for_network(context) == {
        "mean": (40.0, 3.0) * slices,
        "std": (20.0, 1.5) * slices,
        "window": (-125.0, 275.0),
        "per_image": False,
    }
    alike = Normalisation(mean=5.0, std=2.0, per_image=True).for_network(context)
    assert alike == {"mean": 5.0, "std": 2.0, "window": None, "per_image": True}
    assert Normalisation(per_case=True).for_network(context) == {}  # done before slices are cut


@pytest.mark.parametrize(
    ("normalisation", "content"),
    [
        (Normalisation(), {}),
        (Normalisation(mean=1.5, per_case=True), {"mean": 1.5, "per_case": True}),
        (Normalisation(std=(1.0, 2.0), window=(0.0, 9.0)), {"std": [1.0, 2.0], "window": [0.0, 9.0]}),
        (Normalisation(window=(None, (0.0, 9.0))), {"window": [None, [0.0, 9.0]]}),
        (Normalisation(per_case=("zscore", None)), {"per_case": ["zscore", None]}),
    ],
)
def test_a_normalisation_is_written_where_it_differs_from_none(normalisation, content):
    assert normalisation.to_dict() == content
    assert Normalisation.from_dict(content) == normalisation


def test_normalisations_of_a_kind_differ_in_numbers_alone():
    plain = Normalisation(mean=1.0, std=2.0)
    assert plain.kind == Normalisation(mean=(5.0, 6.0)).kind
    others = [Normalisation(window=(0.0, 1.0)), Normalisation(per_image=True), Normalisation(per_case=True)]
    assert len({plain.kind, *(other.kind for other in others)}) == 4


@pytest.mark.parametrize("part", [FULL, FULL.normalisation, FULL.classes[0], FULL.view], ids=lambda p: type(p).__name__)
def test_nothing_of_a_spec_can_be_changed(part):
    (name, *_) = vars(part)
    with pytest.raises(FrozenInstanceError):
        setattr(part, name, None)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"channels": "CT"}, "channels is 'CT', expected a list"),
        ({"channels": [1]}, "expected a list of names"),
        ({"classes": "ab"}, "classes is 'ab', expected a list"),
        ({"classes": [3]}, "class 0 has no name, found 3"),
        ({"classes": [{"name": "a", "colour": 3}]}, "colour of class 0 is 3, expected [red, green, blue]"),
        ({"normalisation": {"meen": 1}}, "Unknown key of normalisation in here: 'meen'. Did you mean mean?"),
        ({"plane": "axal"}, "Unknown plane in here: 'axal'. Did you mean axial?"),
        ({"patch_size": 64}, "patch_size is 64, expected [height, width]"),
        ({"mirrored": ["row"]}, "mirrored is ['row'], expected a list of axes: slices, rows, columns"),
        (
            {"mirrored": ["slices"], "patch_size": [8, 8]},
            "mirrored is ['slices'], but slices are an axis of patches of",
        ),
    ],
)
def test_mistakes_of_a_spec_by_hand_are_named(change, problem):
    with pytest.raises(InputError, match=re.escape(problem)):
        DataSpec.from_dict({**BY_HAND, **change}, "here")


def test_regions_are_the_outputs_of_a_network():
    spec = DataSpec.from_dict(TUMOUR)
    assert spec.output_names == ["whole", "tumour core", "enhancing"]
    assert spec.regions[1] == Region("tumour core", classes=(2, 3), writes=2)
    assert spec.writes == [1, 2, 3]
    assert spec.to_dict()["regions"] == TUMOUR["regions"]
    assert (FULL.output_names, FULL.writes) == (["liver", "spleen", "rest"], None)


@pytest.mark.parametrize(
    ("k", "change", "problem"),
    [
        (1, {"ids": []}, r"the region tumour core is \[\], expected a list of mask values"),
        (1, {"ids": [2, 3]}, "holds 3; the mask values of classes are 1 oedema, 2 core, 4 enhancing"),
        (1, {"ids": [0, 2]}, "the region tumour core holds 0;"),
        (1, {"ids": [[2]]}, r"the region tumour core holds \[2\];"),
        (1, {"writes": 0}, r"the region tumour core writes 0, but holds \[2, 4\]"),
        (1, {"writes": 4}, "tumour core writes 4 and enhancing 4; each region needs a name and a value of its own"),
        (0, {"writes": 2}, "whole writes 2 and tumour core 2; each"),
        (2, {"name": "whole"}, "each region needs a name"),
        (2, {"ids": [1, 4]}, "whole writes 1, which the later region enhancing would overwrite, as it holds it"),
        (2, {"id": 3}, "expected a list of mappings with the keys name, ids and writes"),
    ],
)
def test_regions_that_cannot_be_written_back_are_refused(k, change, problem):
    regions = [{**one, **(change if i == k else {})} for i, one in enumerate(TUMOUR["regions"])]
    with pytest.raises(InputError, match=f"^spec: .*{problem}") as refused:
        DataSpec.from_dict({**TUMOUR, "regions": regions})
    assert "\n" not in str(refused.value)


def test_what_no_region_holds_is_the_background():
    with pytest.raises(InputError, match="with regions the first class must be the background, found none"):
        DataSpec.from_dict({**TUMOUR, "classes": ["none", *TUMOUR["classes"][1:]]})
