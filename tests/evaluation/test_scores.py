"""Scores as rows, means and tables: no value is dropped, and a miss never helps."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mlla_seg.evaluation.overlap import case_confusion, counts_of
from mlla_seg.evaluation.scores import STATUSES, Evaluation
from mlla_seg.evaluation.surface_distance import case_surface_scores

CLASSES = ["background", "liver", "spleen"]


def evaluate(predictions, masks, **how):
    confusion = torch.stack([case_confusion(p, m, 3) for p, m in zip(predictions, masks, strict=True)])
    surfaces = [case_surface_scores(p, m, 3, (1, 1, 1), 1.0) for p, m in zip(predictions, masks, strict=True)]
    names = [f"case{i}" for i in range(len(masks))]
    return Evaluation(names, CLASSES, 0, confusion, torch.stack(surfaces), tolerance=1.0, **how)


@pytest.fixture
def masks():
    masks = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    masks[:, :, 2:8, 2:8] = 1
    masks[:2, :, 10:14, 10:14] = 2  # the spleen is in two of the four cases
    return masks


def test_rows_say_what_was_found_missed_hallucinated_and_absent(masks):
    predictions = masks.clone()
    predictions[0][predictions[0] == 2] = 0
    predictions[3, :, 15, 15] = 2
    evaluation = evaluate(predictions, masks, unit="mm", voxel_ml=[0.5, 0.5, 0.5, math.nan])
    rows = {(row["case"], row["class"]): row for row in evaluation.rows()}
    assert len(rows) == 12
    spleen = [rows[f"case{i}", "spleen"] for i in range(4)]
    assert [row["status"] for row in spleen] == ["missed", "found", "absent", "hallucinated"]
    diagonal = math.sqrt(3**2 + 16**2 + 16**2)
    assert [row["hd95"] for row in spleen] == pytest.approx([diagonal, 0, math.nan, diagonal], nan_ok=True)
    assert [row["dice"] for row in spleen] == pytest.approx([0, 1, math.nan, 0], nan_ok=True)
    assert [row["precision"] for row in spleen] == pytest.approx([0, 1, math.nan, 0], nan_ok=True)
    assert [row["nsd"] for row in spleen] == pytest.approx([0, 1, math.nan, 0], nan_ok=True)
    assert (spleen[0]["truth_ml"], spleen[0]["prediction_ml"]) == (24, 0)
    assert math.isnan(spleen[3]["prediction_ml"])
    assert (spleen[0]["tp"], spleen[0]["fp"], spleen[0]["fn"]) == (0, 0, 48)
    assert {row["unit"] for row in rows.values()} == {"mm"}
    assert evaluation.numbers_of_cases()["spleen"] == dict(zip(STATUSES, (1, 1, 1, 1), strict=True))
    means = evaluation.means()
    assert means["dice_spleen"] == pytest.approx(1 / 3)  # over the three cases where it is anywhere
    assert means["hd95_spleen"] == pytest.approx(2 * diagonal / 3)
    assert means["dice"] == pytest.approx((1 + 1 / 3) / 2)


def test_a_network_that_misses_more_never_scores_better(masks):
    """Case after case loses its liver and then its spleen; means get worse and never better."""
    predictions = masks.clone()
    before = evaluate(predictions, masks).means()
    for i in range(4):
        for k in (1, 2):
            if not (masks[i] == k).any():
                continue
            predictions[i][masks[i] == k] = 0
            after = evaluate(predictions, masks).means()
            for name in ("dice", "iou", "precision", "recall", "nsd"):
                assert after[name] < before[name]
            assert after["hd95"] > before["hd95"] and after["assd"] > before["assd"]
            before = after


def test_tables_hold_every_class_the_mean_and_the_unit(masks):
    header, rows = evaluate(masks, masks, unit="mm").table()
    assert header[:7] == ["class", "Dice", "IoU", "precision", "recall", "HD95 mm", "ASSD mm"]
    assert header[7] == "NSD 1 mm"
    assert [row[0] for row in rows] == ["liver", "spleen", "mean"]
    assert rows[-1] == ["mean", 1, 1, 1, 1, 0, 0, 1, 6, 0, 0, 2]


def test_both_protocols_side_by_side(masks):
    published = torch.full((4, 3, 2), math.nan)
    published[:, 1] = torch.tensor([0.8, 4.0])
    published[:, 2] = torch.tensor([0.2, 0.0])
    evaluation = evaluate(masks, masks, published=published)
    header, rows = evaluation.comparison()
    assert header[-2:] == ["Dice transunet", "HD95 transunet (voxel)"]
    assert rows[-1][1:] == pytest.approx([1, 0, 0.5, 2])
    row = evaluation.rows()[1]
    assert (row["transunet_dice"], row["transunet_hd95"]) == pytest.approx((0.8, 4))


def test_pooled_scores_are_those_of_one_confusion_matrix(masks):
    from torchmetrics.functional import classification as reference

    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(3, masks.shape, generator=generator, dtype=torch.uint8)
    predictions = torch.where(torch.rand(masks.shape, generator=generator) < 0.2, noise, masks)
    evaluation = evaluate(predictions, masks)
    pooled = evaluation.pooled()
    pair = predictions.flatten().long(), masks.flatten().long()
    how = {"num_classes": 3, "average": "none"}
    for name, function in (
        ("iou", reference.multiclass_jaccard_index),
        ("f1", reference.multiclass_f1_score),
        ("precision", reference.multiclass_precision),
        ("recall", reference.multiclass_recall),
    ):
        expected = function(*pair, **how).tolist()
        assert [pooled[f"{name}_{label}"] for label in CLASSES] == pytest.approx(expected, abs=1e-6)
        assert pooled[name] == pytest.approx(sum(expected[1:]) / 2, abs=1e-6)
    assert pooled["accuracy"] == pytest.approx(float((pair[0] == pair[1]).float().mean()))
    assert pooled["kappa"] == pytest.approx(float(reference.multiclass_cohen_kappa(*pair, 3)), abs=1e-6)
    expected = reference.multiclass_confusion_matrix(*pair, 3)
    assert torch.equal(evaluation.confusion.sum(dim=0), expected)


def test_means_with_and_without_the_class_left_out_stand_side_by_side(masks):
    predictions = masks.clone()
    predictions[:, :, :3] = 0
    evaluation = evaluate(predictions, masks)
    pooled = evaluation.pooled()
    header, rows = evaluation.pooled_table()
    assert header == ["class", "IoU", "F1", "precision", "recall"]
    assert [row[0] for row in rows] == [*CLASSES, "mean without background", "mean of all"]
    found, beyond = 4 * 3 * 5 * 6, 4 * 3 * 6  # of the liver one row of six is lost
    empty = 4 * 3 * 16 * 16 - found - beyond - 2 * 3 * 16
    liver, background = found / (found + beyond), empty / (empty + beyond)
    assert [row[1] for row in rows] == pytest.approx(
        [background, liver, 1, (liver + 1) / 2, (background + liver + 1) / 3]
    )
    assert (rows[-2][1], rows[-1][1]) == (pooled["iou"], pooled["iou_with_all"])
    everything = replace(evaluation, background=None).pooled_table()[1]
    assert [row[0] for row in everything] == [*CLASSES, "mean of all"]


def test_boundary_iou_is_that_of_all_boundaries_together(masks):
    boundaries = torch.tensor([[[5, 10], [3, 4], [0, 0]]] * 3 + [[[1, 1], [0, 4], [0, 0]]])
    evaluation = replace(evaluate(masks, masks), boundaries=boundaries)
    pooled = evaluation.pooled()
    assert pooled["boundary_iou_background"] == pytest.approx(16 / 31)
    assert pooled["boundary_iou_liver"] == pytest.approx(9 / 16)
    assert math.isnan(pooled["boundary_iou_spleen"])
    assert pooled["boundary_iou"] == pytest.approx(9 / 16)
    assert evaluation.pooled_table()[0][-1] == "boundary IoU"


def test_rows_count_the_voxels_once_however_many_cases_there_are(monkeypatch):
    """Counting them for every row took time quadratic in the number of cases."""
    from mlla_seg.evaluation import scores as module

    asked = []
    monkeypatch.setattr(module, "counts_of", lambda confusion: asked.append(1) or counts_of(confusion))
    confusion = torch.randint(0, 9, (50, 3, 3), generator=torch.Generator().manual_seed(0))
    rows = Evaluation([f"case{i}" for i in range(50)], CLASSES, 0, confusion).rows()
    assert len(asked) < 10
    truth = confusion.sum(dim=2)
    assert [row["tp"] + row["fn"] for row in rows] == truth.flatten().tolist()
    dice = 2 * confusion[31, 1, 1] / (confusion[31, 1].sum() + confusion[31, :, 1].sum())
    assert rows[31 * 3 + 1]["dice"] == pytest.approx(float(dice))
