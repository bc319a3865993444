"""The code in docs/plugins.md and docs/study.md runs as written, block by block."""

from __future__ import annotations

import re
import shlex

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from conftest import ROOT, TINY
from layouts import WRITERS, root_of, write_landcover
from mlla_seg import MLLA
from mlla_seg.models.blocks import BLOCKS as DESIGNS
from mlla_seg.models.mixers import MIXERS, build_mixer

PAGE = (ROOT / "docs/plugins.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
COMMANDS = re.findall(r"^python cli\.py (.+)$", PAGE, flags=re.MULTILINE)
STUDY = (ROOT / "docs/study.md").read_text()


def test_each_integration_takes_at_most_six_lines():
    assert len(BLOCKS) >= 7
    for block in BLOCKS:
        assert len([line for line in block.splitlines() if line]) <= 6, block


@pytest.mark.slow
def test_every_line_runs(checkpoint, tmp_path, monkeypatch):
    pytest.importorskip("torchgeo", reason="pip install 'mlla_seg[torchgeo]'")
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    classifier = MLLA()
    torch.save({"model": classifier.state_dict()}, "mlla_t.pth")
    (tmp_path / "best.ckpt").write_bytes(checkpoint.read_bytes())
    write_landcover(tmp_path / "data/landcoverai", size=32)
    names = {
        "image": torch.zeros(1, 1, 224, 300),
        "scan": np.zeros((2, 1, 32, 32), dtype=np.float32),
        "trainer": Trainer(fast_dev_run=1, accelerator="cpu", logger=False, enable_progress_bar=False),
    }
    smp_model = None
    for block in BLOCKS:
        exec(block, names)  # the page's own code
        smp_model = smp_model or names.get("model")
    torch.testing.assert_close(smp_model.encoder.mlla.stages.state_dict(), classifier.encoder.stages.state_dict())
    assert names["classifier"].num_classes == 10
    assert names["maps"].feature_info.reduction() == [4, 8, 16, 32]
    assert names["logits"].shape == (1, 3, 224, 300)
    assert names["labels"].shape == (2, 32, 32)
    assert names["trainer"].global_step == 1


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs(command, cli, tmp_path):
    config = ROOT / "configs/synapse.yaml"
    WRITERS["synapse"](tmp_path / root_of(config))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    own = [option for option in TINY if "encoder" not in option and "decoder" not in option]
    few = [f"--trainer.{option}" for option in ("max_epochs=1", "limit_train_batches=1", "precision=32-true")]
    cli(*shlex.split(command), *own, *few, "--data.batch_size=2", "--data.resize=[64,64]")
    assert len(list((tmp_path / "runs").glob("**/last.ckpt"))) == 1


def test_the_formula_of_the_study_is_that_of_the_code():
    torch.manual_seed(0)
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", STUDY, flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)  # the page's own code, which compares


def test_every_mixer_and_block_is_on_the_page_of_the_study():
    for name in MIXERS:
        assert re.search(rf"`{name}`|--model\.mixer {name} ", STUDY), name
    for name in re.findall(r"--model\.mixer ([\w+-]+)", STUDY):
        build_mixer(re.sub(r"\+(ape|cpe)", "", name), 16, 2)
    assert set(re.findall(r"--model\.block (\w+)", STUDY)) == set(DESIGNS)
