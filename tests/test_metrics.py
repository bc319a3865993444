"""Scores per case: right, and the same for any grouping of the cases."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.segmentation import dice_score as torchmetrics_dice

from mlla_seg.metrics import CaseScores, case_counts, dice_score, iou_score, mean_scores, seen_cases


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


def test_order_and_repetition_of_cases_do_not_matter(cases):
    def compute(order):
        metric = CaseScores(3, 4)
        for i in order:
            metric.update(*cases[i], i)
        return metric.compute()

    expected = torch.stack([case_counts(*case, 4) for case in cases])
    for order in ([0, 1, 2], [2, 0, 1], [0, 1, 2, 0, 1]):
        assert torch.equal(compute(order), expected)
    limited = CaseScores(3, 4)
    limited.update(*cases[1], 1)  # a run limited to some cases counts those
    assert seen_cases(limited.compute()).tolist() == [1]
    assert torch.equal(limited.compute()[1], expected[1])


def test_mean_is_over_cases_first_and_leaves_the_background_out():
    scores = torch.tensor([[1.0, 0.5, float("nan")], [1.0, 0.7, 0.2]], dtype=torch.float64)
    per_class, mean = mean_scores(scores, background=0)
    torch.testing.assert_close(per_class, torch.tensor([1.0, 0.6, 0.2], dtype=torch.float64))
    assert mean.item() == pytest.approx(0.4)
    assert mean_scores(scores, background=None)[1].item() == pytest.approx(0.6)
