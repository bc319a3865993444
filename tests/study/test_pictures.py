"""Comparison with published figures, and the numbers behind the pictures of a study."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlla_seg import create_model
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.study.agreement import HEADER, agreement
from mlla_seg.study.pictures import draw_costs, draw_depth
from mlla_seg.study.plan import Plan, Run, Variant, make_variants
from mlla_seg.study.scores import read_scored
from mlla_seg.study.subjects import Example, Subject, averages, centred, padded, subject, with_speed
from samples import write_scored

VARIANTS = {
    "mlla": {},
    "baseline": {"paper": 77.6},
    "gate": {"paper": 78.4},
    "bare": {"paper": 72.4},
    "same": {"paper": 77.8},
    "lonely": {"paper": 81.6},
}
MEANS = {"mlla": 0.9, "baseline": 0.8, "gate": 0.6, "bare": 0.5, "same": 0.8, "lonely": 0.9}


def test_signs_are_compared_with_those_of_the_paper_where_a_difference_is_shown(tmp_path):
    plan = Plan("demo", {}, make_variants(VARIANTS, [0, 1, 2, 3]), 3, None, "test", "", 1, tmp_path)
    scored = {}
    for number, (name, mean) in enumerate(MEANS.items()):
        scored[name] = []
        for seed in range(1 if name == "lonely" else 4):
            values = mean + np.random.default_rng(10 * number + seed).normal(0, 0.01, 12)
            folder = tmp_path / name / str(seed)
            write_scored(folder, {f"case{k}": {"liver": float(value)} for k, value in enumerate(values)})
            scored[name].append(read_scored(folder, "dice"))
    baseline, rows = agreement(plan, scored, "dice")
    assert baseline == "baseline"
    found = {row[0]: dict(zip(HEADER, row, strict=True)) for row in rows}
    assert {name: row["verdict"] for name, row in found.items()} == {
        "gate": "disagrees",
        "bare": "agrees",
        "same": "no difference shown",
        "lonely": "one seed: nothing follows",
    }
    assert (found["gate"]["paper"], found["gate"]["difference"]) == ("78.4", "+0.8")
    assert float(found["bare"]["here"]) == pytest.approx(-0.3, abs=0.02)
    assert agreement(plan, {"mlla": scored["mlla"], "gate": scored["gate"]}, "dice") is None


def test_fields_are_averaged_around_their_pixel():
    field = np.zeros((4, 5))
    field[1, 4] = 2.0
    middle = centred(field, 1, 4)
    assert middle.shape == (7, 9)
    assert middle[3, 4] == 2.0
    assert middle.sum() == 2.0
    assert padded(middle, 9, 9)[4, 4] == 2.0
    assert averages([[1.0, 2.0], [3.0, 5.0]]) == (2.0, 3.5)
    assert averages([[], []]) == ()


@pytest.fixture
def run(tmp_path):
    """A run with a checkpoint of an untrained network."""
    from mlla_seg.training.module import SegmentationModule

    spec = {"channels": ["MR"], "classes": ["background", "heart"], "patch_size": [32, 64]}
    module = SegmentationModule("mlla_test", mixer="linear+forget_gate", block="transformer", spec=DataSpec.of(spec))
    content = {
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
        "mlla_seg_version": "0.2",
    }
    folder = tmp_path / "trained" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(content, folder / "last.ckpt")
    variant = Variant("forget", "with forget gate", {"model.mixer": "linear+forget_gate"}, (0,))
    return Run(variant, 0, tmp_path)


def test_a_network_is_looked_at(run):
    arrays = [np.random.default_rng(k).normal(size=(1, 1, 40, 70)).astype(np.float32) for k in range(2)]
    found = subject(run, [Example(array, None, (0, 20, 30 + k)) for k, array in enumerate(arrays)])
    assert found.mixer == "linear+forget_gate"
    assert found.of_blocks
    assert found.field.shape == (63, 127)  # around any pixel of a training patch
    assert found.field.sum() == pytest.approx(1)
    assert found.attention is None  # it visits pixels in turn
    assert len(found.names) == len(found.spread) == len(found.gates) == 10
    assert all(0.5 < gate < 1 for gate in found.gates)  # as initialised
    network = create_model("mlla_test", num_classes=2, in_channels=1, mixer=found.mixer, block="transformer")
    assert found.costs["M parameters"] == pytest.approx(sum(p.numel() for p in network.parameters()) / 1e6)
    (timed,) = with_speed([found])
    assert timed.costs["patches per second"] > 0
    assert list(timed.costs) == ["M parameters", "GMAC", "MB of activations", "patches per second"]


def test_pictures_are_written(run, tmp_path):
    one = Subject(run.variant, None, np.ones((3, 3)), None, ("encoder 1/4, block 1",), (0.1,), (0.9,), {"GMAC": 1.0})
    draw_costs([one], {"forget": [0.8, 0.9]}, "Dice", tmp_path / "costs.png")
    draw_depth([one], "gates", "mean forget gate", tmp_path / "gates.png")
    for name in ("costs.png", "gates.png"):
        assert (tmp_path / name).read_bytes()[1:4] == b"PNG"
