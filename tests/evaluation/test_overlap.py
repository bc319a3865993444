"""Overlap scores per case: correct, and independent of how cases are grouped."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.segmentation import dice_score as torchmetrics_dice

from mlla_seg.evaluation import overlap
from mlla_seg.evaluation.overlap import (
    OVERLAP_SCORES,
    CaseTable,
    case_confusion,
    counts_of,
    dice_score,
    iou_score,
    mean_scores,
    precision_score,
    recall_score,
    seen_cases,
)


def case_counts(prediction, mask, classes):
    return counts_of(case_confusion(prediction, mask, classes))


@pytest.fixture
def cases():
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 8, 8), (1, 20, 5), (7, 4, 4)]
    return [(torch.randint(4, s, generator=generator), torch.randint(4, s, generator=generator)) for s in shapes]


def test_counts_agree_with_an_independent_implementation(cases):
    for prediction, mask in cases:
        theirs = torchmetrics_dice(
            prediction[None], mask[None], num_classes=4, input_format="index", average="none", include_background=True
        )
        torch.testing.assert_close(dice_score(case_counts(prediction, mask, 4)).float(), theirs[0])


def test_scores_by_hand():
    counts = case_counts(torch.tensor([0, 1, 1, 1, 0]), torch.tensor([0, 1, 1, 0, 255]), 3)
    assert counts.tolist() == [[1, 0, 1], [2, 1, 0], [0, 0, 0]]
    torch.testing.assert_close(dice_score(counts)[:2], torch.tensor([2 / 3, 4 / 5], dtype=torch.float64))
    torch.testing.assert_close(iou_score(counts)[:2], torch.tensor([1 / 2, 2 / 3], dtype=torch.float64))
    assert dice_score(counts)[2].isnan()  # absent from both


def test_a_class_in_only_one_of_truth_and_prediction_scores_zero():
    missed = case_counts(torch.tensor([0, 0]), torch.tensor([0, 1]), 2)
    invented = case_counts(torch.tensor([0, 1]), torch.tensor([0, 0]), 2)
    assert dice_score(missed)[1] == dice_score(invented)[1] == 0


def test_missing_more_never_scores_better(cases):
    _, mask = cases[0]
    scores = []
    for missed in range(0, mask.numel() + 1, 16):
        worse = mask.clone().flatten()
        worse[:missed] = 0
        scores.append(mean_scores(dice_score(case_counts(worse.view_as(mask), mask, 4))[None], 0)[1].item())
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == 1
    assert scores[-1] == 0


def test_precision_and_recall_agree_with_an_independent_implementation(cases):
    from torchmetrics.functional.classification import multiclass_precision, multiclass_recall

    for prediction, mask in cases:
        counts = case_counts(prediction, mask, 4)
        how = {"num_classes": 4, "average": "none"}
        torch.testing.assert_close(precision_score(counts).float(), multiclass_precision(prediction, mask, **how))
        torch.testing.assert_close(recall_score(counts).float(), multiclass_recall(prediction, mask, **how))


@pytest.mark.parametrize("name", OVERLAP_SCORES)
def test_every_score_punishes_what_is_missed_or_invented_and_skips_what_is_absent(name):
    counts = torch.tensor([[5, 0, 0], [0, 0, 7], [0, 7, 0], [0, 0, 0]])  # found, missed, hallucinated, absent
    values = OVERLAP_SCORES[name](counts)
    assert values[:3].tolist() == [1, 0, 0]
    assert values[3].isnan()


def test_counting_in_blocks_changes_nothing(cases, monkeypatch):
    whole = [case_counts(*case, 4) for case in cases]
    monkeypatch.setattr(overlap, "BLOCK", 7)
    assert all(torch.equal(case_counts(*case, 4), counts) for case, counts in zip(cases, whole, strict=True))


def test_order_and_repetition_of_cases_do_not_matter(cases):
    def compute(order):
        table = CaseTable(3, 4, 4)
        for i in order:
            table.update(i, case_confusion(*cases[i], 4))
        return table.compute()

    expected = torch.stack([case_confusion(*case, 4) for case in cases])
    for order in ([0, 1, 2], [2, 0, 1], [0, 1, 2, 0, 1]):
        assert torch.equal(compute(order), expected)
    limited = compute([1])  # a run limited to some cases counts those
    assert seen_cases(limited).tolist() == [1]
    assert torch.equal(limited[1], expected[1])


def test_rows_of_several_processes_are_joined_with_what_is_not_a_number():
    values = torch.tensor([[0.5, float("nan")], [2.0, 0.0]])
    ranks = [CaseTable(2, 2, dtype=torch.float32) for _ in range(2)]
    ranks[0].update(0, values[0])
    ranks[1].update(0, values[0])  # the sampler's repetition
    ranks[1].update(1, values[1])
    joined = ranks[0]._reductions["rows"](torch.stack([rank.rows for rank in ranks]))
    torch.testing.assert_close(joined, values, equal_nan=True)


def test_mean_is_over_cases_first_and_leaves_the_background_out():
    scores = torch.tensor([[1.0, 0.5, float("nan")], [1.0, 0.7, 0.2]], dtype=torch.float64)
    per_class, mean = mean_scores(scores, background=0)
    torch.testing.assert_close(per_class, torch.tensor([1.0, 0.6, 0.2], dtype=torch.float64))
    assert mean.item() == pytest.approx(0.4)
    assert mean_scores(scores, background=None)[1].item() == pytest.approx(0.6)
