"""Calibration against torchmetrics, in parts, with ignored pixels, of classes and regions."""

from __future__ import annotations

import io

import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.slices import View
from mlla_seg.evaluation.calibration import BINS, CHOSEN, EVERYWHERE, CaseCalibration, calibration_error, reliability
from mlla_seg.evaluation.calibration_results import (
    calibration_in_words,
    calibration_summary,
    calibration_table,
    plot_reliability,
    top_label_counts,
)
from mlla_seg.evaluation.overlap import case_confusion
from mlla_seg.evaluation.regions import region_counts
from mlla_seg.evaluation.scores import Evaluation
from mlla_seg.inference.cases import predict_case

CLASSES = ["background", "liver", "spleen"]
SPEC = DataSpec.of({"channels": ["CT"], "classes": CLASSES})
REGIONS = DataSpec.of(
    {
        "channels": ["MR"],
        "classes": CLASSES,
        "regions": [{"name": "whole", "ids": [1, 2], "writes": 1}, {"name": "core", "ids": [2], "writes": 2}],
    }
)


def sample(seed=0, outputs=3, slices=5, size=(24, 31)):
    """Logits ``(S, K, H, W)`` and a mask ``(S, H, W)`` that agrees with them now and then, and is ignored in part."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(slices, outputs, *size, generator=generator)
    mask = torch.where(
        torch.rand(slices, *size, generator=generator) < 0.6,
        logits.argmax(1) % 3,
        torch.randint(3, (slices, *size), generator=generator),
    ).to(torch.uint8)
    mask[:, 3:7] = 255
    return logits, mask


def counted(logits, mask, spec=SPEC):
    case = CaseCalibration(mask, spec)
    case.add(0, 0, logits)
    return case.counts


def evaluation_of(*cases, **how):
    """The evaluation of cases, pairs of logits and mask."""
    confusion = torch.stack([case_confusion(logits.argmax(1), mask, 3) for logits, mask in cases])
    names = [f"case{i}" for i in range(len(cases))]
    counts = torch.stack([counted(*case) for case in cases])
    return Evaluation(names, CLASSES, 0, confusion, calibration=counts, **how)


def test_errors_equal_torchmetrics():
    logits, mask = sample()
    known = mask != 255
    found, true = logits.softmax(1).movedim(1, -1)[known], mask[known].long()
    errors = calibration_error(counted(logits, mask))
    for k in range(3):
        expected = binary_calibration_error(found[:, k].contiguous(), (true == k).long(), n_bins=BINS, norm="l1")
        assert errors[k, EVERYWHERE] == pytest.approx(float(expected), abs=1e-6)
        chosen = found.argmax(1) == k
        expected = binary_calibration_error(
            found[chosen, k].contiguous(), (true[chosen] == k).long(), n_bins=BINS, norm="l1"
        )
        assert errors[k, CHOSEN] == pytest.approx(float(expected), abs=1e-6)
    all_pixels, foreground = calibration_error(top_label_counts(evaluation_of((logits, mask)))).tolist()
    expected = multiclass_calibration_error(found, true, 3, n_bins=BINS, norm="l1")
    assert all_pixels == pytest.approx(float(expected), abs=1e-6)
    chosen = found.argmax(1) > 0
    expected = multiclass_calibration_error(found[chosen], true[chosen], 3, n_bins=BINS, norm="l1")
    assert foreground == pytest.approx(float(expected), abs=1e-6)


def test_regions_are_calibrated_one_by_one():
    logits, mask = sample(outputs=2)
    known = mask != 255
    found, true = logits.sigmoid().movedim(1, -1)[known], mask[known].long()
    counts = counted(logits, mask, REGIONS)
    errors = calibration_error(counts)
    for k, inside in enumerate((true > 0, true == 2)):
        for part, chosen in ((EVERYWHERE, slice(None)), (CHOSEN, found[:, k] > 0.5)):
            expected = binary_calibration_error(
                found[chosen, k].contiguous(), inside[chosen].long(), n_bins=BINS, norm="l1"
            )
            assert errors[k, part] == pytest.approx(float(expected), abs=1e-6)
    confusion = torch.ones(1, 3, 3, dtype=torch.int64)
    parts = [region.classes for region in REGIONS.regions]
    assert region_counts(confusion, parts).shape == (1, 2, 3)
    evaluation = Evaluation(
        ["a"], REGIONS.output_names, None, confusion, calibration=counts[None], regions=parts, labels=CLASSES
    )
    header, rows = calibration_table(evaluation)
    assert header[0] == "region" and [row[0] for row in rows] == ["whole", "core", "mean"]
    assert "no top label" in calibration_in_words(evaluation) and "top_label" not in calibration_summary(evaluation)


def test_parts_give_the_same_counts_as_the_whole(monkeypatch):
    """Slice by slice, band by band and a few pixels at a time: exactly the same integers."""
    from mlla_seg.evaluation import calibration

    logits, mask = sample()
    whole = counted(logits, mask)
    parts = CaseCalibration(mask, SPEC)
    monkeypatch.setattr(calibration, "BLOCK", 100)
    for first in (3, 0, 1, 2, 4):
        for top in (11, 0):
            parts.add(first, top, logits[first : first + 1, :, top : top + (13 if top else 11)])
    assert torch.equal(parts.counts, whole)
    assert whole[:, EVERYWHERE, :, 0].sum(-1).tolist() == [int((mask != 255).sum())] * 3
    assert whole[:, CHOSEN, :, 0].sum() == (mask != 255).sum()


@pytest.mark.parametrize(("slices", "window"), [(3, None), (3, (16, 16)), (1, (16, 16))])
def test_logits_that_are_watched_make_the_mask(slices, window):
    """A volume slice by slice and a scene band by band: each pixel is shown once, where it belongs."""
    image = torch.randn(slices, 1, 40, 50, generator=torch.Generator().manual_seed(0))
    shown = torch.full((slices, 40, 50), 9, dtype=torch.uint8)

    def watch(first, top, logits):
        part = shown[first : first + len(logits), top : top + logits.shape[2]]
        assert (part == 9).all()
        part.copy_(logits.argmax(1))

    def network(x):
        return torch.cat((-x, x), dim=1)

    labels = predict_case(network, image, View(patch_size=window), batch_size=2, watch=watch)
    assert torch.equal(labels, shown)


def test_perfect_probabilities_have_no_error_and_certain_mistakes_all():
    truth = torch.zeros(1, 1, 100, dtype=torch.uint8)
    truth[..., :30] = 1
    odds = torch.tensor([0.7, 0.3, 1e-12]).log().view(1, 3, 1, 1).expand(1, 3, 1, 100)
    assert calibration_error(counted(odds, truth))[1, EVERYWHERE] == pytest.approx(0, abs=1e-6)
    wrong = torch.zeros(1, 3, 1, 100)
    wrong[:, 2] = 100
    errors = calibration_error(counted(wrong, truth))
    assert errors[2].tolist() == [1, 1] and errors[0, CHOSEN].isnan()
    ignored = counted(wrong, torch.full_like(truth, 255))
    assert not ignored.any() and calibration_error(ignored).isnan().all()
    probability, fraction = reliability(counted(odds, truth)[1, EVERYWHERE])
    assert probability[4] == pytest.approx(0.3, abs=1e-6) and fraction[4] == pytest.approx(0.3)


def test_tables_summary_rows_and_picture():
    evaluation = evaluation_of(sample(0), sample(1))
    both = [torch.cat(pair) for pair in zip(sample(0), sample(1), strict=True)]
    together = calibration_error(counted(*both))
    header, rows = calibration_table(evaluation)
    assert header[1:3] == ["ECE of all pixels", "ECE where predicted"]
    assert [row[0] for row in rows] == ["liver", "spleen", "mean", "top label"]
    assert rows[0][1:3] == pytest.approx(together[1].tolist())
    assert rows[2][1] == pytest.approx(float(together[1:, EVERYWHERE].mean()))
    summary = calibration_summary(evaluation)
    assert summary["classes"]["spleen"]["predicted"] == pytest.approx(float(together[2, CHOSEN]))
    assert summary["top_label"]["all"] == rows[-1][1] and summary["bins"] == BINS
    assert sum(summary["classes"]["liver"]["reliability"]["pixels"]) == int((both[1] != 255).sum())
    per_case = {(row["case"], row["class"]): row for row in evaluation.rows()}
    first = calibration_error(counted(*sample(0)))
    assert per_case["case0", "liver"]["ece"] == pytest.approx(float(first[1, EVERYWHERE]))
    assert per_case["case0", "liver"]["ece_predicted"] == pytest.approx(float(first[1, CHOSEN]))
    file = io.BytesIO()
    plot_reliability(evaluation, [(200, 0, 0), (0, 0, 200)], file)
    assert file.getvalue().startswith(b"\x89PNG")
