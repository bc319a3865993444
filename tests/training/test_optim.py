"""Parameter groups and learning-rate schedules."""

from __future__ import annotations

import pytest

from mlla_seg.models import create_model
from mlla_seg.training.optim import SCHEDULES, learning_rate_factor, parameter_groups


def test_norms_and_biases_do_not_decay_and_nothing_is_lost():
    model = create_model("mlla_test", num_classes=2)
    decayed, free = parameter_groups(model, 1e-3, 0.05)
    assert decayed["weight_decay"] == 0.05
    assert free["weight_decay"] == 0
    names = {id(p): name for name, p in model.named_parameters()}
    assert {id(p) for group in (decayed, free) for p in group["params"]} == set(names)
    assert all(names[id(p)].endswith("weight") for p in decayed["params"])
    assert all("bias" in names[id(p)] or p.ndim == 1 for p in free["params"])
    model.encoder.requires_grad_(False)
    assert sum(len(group["params"]) for group in parameter_groups(model, 1e-3, 0)) < len(names)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rate_rises_linearly_then_never_rises(schedule):
    factors = [learning_rate_factor(step, 100, 10, schedule) for step in range(101)]
    assert factors[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert factors[10] == 1
    assert factors[10:] == sorted(factors[10:], reverse=True)
    if schedule != "constant":
        assert factors[-1] == pytest.approx(0, abs=1e-9)


def test_schedules_by_hand():
    assert learning_rate_factor(50, 100, 0, "cosine") == pytest.approx(0.5)
    assert learning_rate_factor(50, 100, 0, "poly") == pytest.approx(0.5**0.9)
    assert learning_rate_factor(100, 100, 0, "cosine", final=0.1) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="Did you mean cosine"):
        learning_rate_factor(50, 100, 0, "cosin")
