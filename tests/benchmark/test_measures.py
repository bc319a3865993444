"""Benchmark measurements against values counted by hand."""

from __future__ import annotations

import time

import torch
from torch import nn

from mlla_seg.benchmark.measures import interleaved, peak_bytes, saved_bytes
from mlla_seg.models.cost import macs


def test_multiplications_of_a_convolution():
    assert macs(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(2, 3, 10, 20)) == 2 * 10 * 20 * 8 * 3 * 9


def test_saved_bytes_are_those_of_the_inputs_that_the_backward_pass_needs():
    image = torch.zeros(1, 4, 8, 8)
    layers = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    # the image, the ReLU's result (for itself and the second convolution), and the logits for the mean of squares
    assert saved_bytes(layers, image) == 4 * 64 * (4 + 4 + 2)


def test_peak_counts_what_lives_at_the_same_time():
    class Chain(nn.Module):
        def forward(self, x):
            for _ in range(10):
                x = x + 1
            return x[:, :2]

    image = torch.zeros(1, 4, 8, 8)
    assert peak_bytes(Chain(), image) == 2 * image.nbytes


def test_runs_take_turns_and_the_median_is_given():
    order, ticks = [], []
    slow = iter([0.0, 0.05, 0.02, 0.03])

    def first():
        order.append(1)

    def second():
        order.append(2)
        time.sleep(next(slow))

    quick, median = interleaved([first, second], 3, lambda: ticks.append(0))
    assert order == [1, 2] * 4
    assert len(ticks) == 8
    assert quick < 0.02 < median < 0.05
