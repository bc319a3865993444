"""Options of training samples that are impossible are refused by name, also in Python."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mlla_seg.data.sample_options import SampleOptions, require_counts, require_possible
from mlla_seg.errors import InputError

OPTIONS = SampleOptions(None, None, [32, 32], 0, "anatomy", 0.0, [], 0.0, 0.0)


@pytest.mark.parametrize("name", ["intensity", "elastic", "balance"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_strengths_are_finite(name, value):
    require_possible(OPTIONS)
    with pytest.raises(InputError, match=rf"--data\.{name} must be .*, got {value}"):
        require_possible(replace(OPTIONS, **{name: value}))


def test_counts_have_a_least_value():
    require_counts({"batch_size": 1}, {"seed": 0})
    with pytest.raises(InputError, match=r"--data\.batch_size must be 1 or more, got 0\."):
        require_counts({"batch_size": 0}, {})
    with pytest.raises(InputError, match=r"--data\.seed must be 0 or more, got -1\."):
        require_counts({"batch_size": 1}, {"num_workers": 0, "seed": -1})
