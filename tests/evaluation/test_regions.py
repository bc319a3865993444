"""Scores of regions against nnU-Net's definition: unions of labels in the masks as they are written."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from jobs import REGIONS, spec_of
from mlla_seg.data.dataset import CaseDataset
from mlla_seg.evaluation.overlap import case_confusion
from mlla_seg.evaluation.regions import inside, region_counts
from mlla_seg.evaluation.report import Scored, score_table, write_results
from mlla_seg.evaluation.scores import Evaluation
from mlla_seg.evaluation.surface_distance import surface_scores
from mlla_seg.training.scoring import Scoring, case_scores

SPEC = spec_of(**REGIONS)
SETS = [region.classes for region in SPEC.regions]


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    mask, prediction = (torch.randint(4, (3, 12, 14), generator=generator, dtype=torch.uint8) for _ in range(2))
    mask[0, :3] = 255
    return prediction, mask


def plain_counts(prediction, mask, classes):
    """TP, FP and FN as ``compute_metrics`` of nnU-Net v2 counts them with an ignore label."""
    known = mask.numpy() != 255
    found, there = (np.isin(labels.numpy(), classes) & known for labels in (prediction, mask))
    return [(found & there).sum(), (found & ~there).sum(), (~found & there).sum()]


def test_counts_are_those_of_unions(pair):
    counts = region_counts(case_confusion(*pair, 4), SETS)
    assert counts.tolist() == [plain_counts(*pair, classes) for classes in SETS]
    several = region_counts(case_confusion(*pair, 4).expand(2, 5, 4, 4), SETS)
    assert several.shape == (2, 5, 3, 3)
    assert (several == counts).all()


def test_other_measures_see_a_region_as_one_class(pair):
    prediction, mask = pair
    wanted, spacing = ("surfaces", "boundaries"), (3.0, 1.0, 0.5)
    scores = dict(case_scores(prediction, mask, spacing, Scoring(), SPEC, wanted))
    assert set(scores) == {"confusion", *wanted}
    for k, classes in enumerate(SETS):
        known = mask != 255
        found, there = (torch.from_numpy(np.isin(labels, classes)) & known for labels in pair)
        torch.testing.assert_close(scores["surfaces"][k], surface_scores(found, there, spacing, 2.0))
    assert inside(mask, SETS[1]).unique().tolist() == [0, 1, 255]


def test_tables_and_files_name_the_regions(pair, tmp_path):
    prediction, mask = pair
    evaluation = Evaluation(
        ["a"], SPEC.output_names, None, case_confusion(*pair, 4)[None], regions=SETS, labels=SPEC.class_names
    )
    assert score_table(evaluation).startswith("region")
    case = {"image": torch.zeros(3, 1, 12, 14), "mask": mask, "name": "a", "spacing_mm": None}

    class Cases(CaseDataset):
        cases = [type("Case", (), {"name": "a"})]  # noqa: RUF012

        def __init__(self):
            pass

        def __getitem__(self, index):
            return case

    scored = Scored(evaluation, SPEC, Cases(), lambda *_: prediction, lambda image, k, spacing: prediction[k])
    write_results(tmp_path, scored, "test", {"title": "tumours"}, "")
    with (tmp_path / "per_case.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["whole", "tumour core", "enhancing"]
    tp, fp, fn = plain_counts(*pair, SETS[1])
    assert float(rows[1]["dice"]) == pytest.approx(2 * tp / (2 * tp + fp + fn))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["test/dice_tumour core"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert list(summary["confusion"]) == ["background", "oedema", "core", "enhancing"]
    assert summary["regions"]["tumour core"] == ["core", "enhancing"]
    assert "tumour core = core + enhancing" in (tmp_path / "report.html").read_text()
