"""Which post-processing is chosen from validation cases, and its gain."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jobs import REGIONS, spec_of
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.postprocessing import Step
from mlla_seg.errors import InputError
from mlla_seg.evaluation.postprocessing_choice import Candidate, PackedMask, choose
from mlla_seg.evaluation.spread import paired_difference


def cases(change, number=4, spacing=(2.0, 1.0, 1.0)):
    """Cases of a liver (1) and a spleen (2), whose prediction ``change(mask, n)`` has changed."""
    truth = np.zeros((6, 20, 20), np.uint8)
    truth[1:5, 2:10, 2:10] = 1
    truth[1:5, 13:18, 13:18] = 2
    found = []
    for n in range(number):
        prediction = truth.copy()
        change(prediction, n)
        found.append(Candidate(f"case {n}", PackedMask(prediction), PackedMask(truth), spacing))
    return found


def chosen(change, spec=None, **how):
    found = cases(change, **how)
    return choose(found, [case.name for case in found], spec or spec_of())


def islands(mask, n):
    mask[2, 0, 12 : 14 + n] = 1


def test_what_helps_one_class_is_chosen_for_it():
    choice = chosen(islands)
    assert choice.steps == (Step("keep_largest", (1,)),)
    assert choice.names == ["liver", "spleen", "mean"]
    liver, spleen, mean = choice.gains
    assert liver.value > 0.002 and liver.low > 0 and liver.after == 1 and (liver.better, liver.worse) == (4, 0)
    assert spleen.value == 0 and (spleen.better, spleen.worse) == (0, 0)
    assert mean.value == pytest.approx(liver.value / 2)


def test_without_a_difference_nothing_is_chosen():
    assert chosen(lambda mask, n: None).steps == ()


def test_what_harms_is_not_chosen():
    def halves(mask, n):  # the liver is in two parts
        mask[:, 5, :] = 0

    assert chosen(halves).steps == ()


def test_holes_and_small_components():
    def both(mask, n):
        mask[2:4, 4:6, 4:6] = 0
        mask[2, 13:18, 15] = 0  # two parts of the spleen, which are no noise
        mask[3, 13:18, 15] = 0
        mask[1, 13:18, 15] = 0
        mask[4, 13:18, 15] = 0
        mask[0, 0, 12:15] = 2

    assert chosen(both).steps == (Step("fill_holes", (1,)), Step("minimum_size", (2,), 10.0, "mm3"))
    assert chosen(both, spacing=None).steps[1] == Step("minimum_size", (2,), 10.0, "voxels")


def test_a_removed_hallucination_counts():
    def hallucination(mask, n):
        mask[mask == 2] = 0
        mask[2, 0, 0] = 2

    found = cases(hallucination)
    for case in found:
        truth = case.truth.labels().copy()
        truth[truth == 2] = 0
        case.truth = PackedMask(truth)
    choice = choose(found, list("abcd"), spec_of())
    assert [step.operation for step in choice.steps] == ["keep_largest"] and math.isnan(choice.gains[1].after)


def test_regions_are_scored():
    spec = spec_of(**REGIONS)
    choice = chosen(islands, spec)
    assert choice.steps and choice.names == ["whole", "tumour core", "enhancing", "mean"]


def test_gain_is_that_of_the_means():
    random = np.random.default_rng(0)
    before = random.random((30, 2))
    after = before + random.normal(0.02, 0.01, before.shape)
    after[3, 1] = np.nan
    first, second, mean = paired_difference(before, after, [str(n // 2) for n in range(30)])
    assert first.value == pytest.approx((after - before)[:, 0].mean())
    assert second.value == pytest.approx(np.nanmean(after[:, 1]) - before[:, 1].mean())
    assert mean.value == pytest.approx((first.value + second.value) / 2)
    assert first.low < first.value < first.high and first.high - first.low < 0.01, "paired, not of two samples"
    assert math.isnan(paired_difference(before, after, ["one"] * 30)[0].low)


def test_steps_survive_files():
    steps = [
        {"operation": "keep_largest", "classes": ["liver", "spleen"]},
        {"operation": "minimum_size", "classes": ["spleen"], "size": 10, "unit": "mm3"},
    ]
    spec = spec_of(postprocessing=steps)
    assert spec.postprocessing == (Step("keep_largest", (1, 2)), Step("minimum_size", (2,), 10, "mm3"))
    assert spec.to_dict()["postprocessing"] == steps
    assert DataSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"operation": "keep_larges", "classes": ["liver"]}, "keep_largest"),
        ({"operation": "fill_holes", "classes": ["livr"]}, "liver"),
        ({"operation": "fill_holes"}, "lacks classes"),
        ({"operation": "minimum_size", "classes": ["liver"]}, "size and unit"),
        ({"operation": "keep_largest", "classes": ["background"]}, "expected other classes"),
    ],
)
def test_wrong_steps_are_refused(step, said):
    with pytest.raises(InputError, match=said):
        spec_of(postprocessing=[step])
