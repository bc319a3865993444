"""Parameter groups and learning-rate schedules."""

from __future__ import annotations

import pytest
import torch

from mlla_seg.errors import InputError
from mlla_seg.models import create_model
from mlla_seg.training.optim import SCHEDULES, build_optimizer, learning_rate_factor, parameter_groups


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
    assert sum(len(group["params"]) for group in parameter_groups(model, 1e-3, 0)) == len(names)  # resumed unfrozen


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


def step_of(name, **expected):
    model = torch.nn.Linear(3, 2)
    optimizer = build_optimizer(name, parameter_groups(torch.nn.ModuleDict({"encoder": model}), 0.1, 0.01), 0.1)
    for group in optimizer.param_groups:
        assert {key: group[key] for key in expected} == expected
    before = model.weight.detach().clone()
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.weight, before)
    return optimizer


def test_optimisers_are_those_of_torch_and_timm():
    assert type(step_of("adamw", lr=0.1, betas=(0.9, 0.999), eps=1e-8)) is torch.optim.AdamW
    assert type(step_of("sgd", momentum=0.9, nesterov=True)) is torch.optim.SGD
    assert type(step_of("lion", lr=0.1)).__module__.startswith("timm.")


@pytest.mark.parametrize(
    ("name", "said"), [("adanw2", "Did you mean"), ("adahessian", "Unknown"), ("sdg", "adamw, sgd")]
)
def test_other_optimisers_are_refused(name, said):
    with pytest.raises(InputError, match=f"--model.optimizer.*{said}|{said}"):
        step_of(name)
