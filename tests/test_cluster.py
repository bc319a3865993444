"""The commands, scripts and code of docs/cluster.md."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from conftest import ROOT

PAGE = (ROOT / "docs/cluster.md").read_text()
SCRIPTS = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
TRAINING = [line for script in SCRIPTS for line in script.splitlines() if re.search(r"(cli\.py|mlla_seg) fit ", line)]
(TORCHRUN,) = [line for line in TRAINING if line.startswith("torchrun")]


@pytest.fixture
def mine(tmp_path, phantom_root):
    """Config of a tiny training: two steps, and one case of validation."""
    few = {"max_steps": 2, "limit_val_batches": 1, "enable_progress_bar": False, "accelerator": "cpu"}
    content = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())
    content["data"] |= {"root": str(phantom_root), "crop": [32, 32], "batch_size": 8, "num_workers": 0}
    content["model"] |= {"encoder": "mlla_test", "decoder_depths": [1, 1, 1]}
    content["trainer"] |= few
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("line", TRAINING)
def test_the_options_of_every_training_are_known(cli, capsys, line, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    fold = re.search(r'^FOLD="(.*)"$', PAGE, flags=re.MULTILINE)[1]
    words = re.split(r"(?:cli\.py|mlla_seg) ", line.replace("$FOLD", fold).replace("$SLURM_ARRAY_TASK_ID", "3"))[1]
    words = words.replace("configs/", f"{ROOT}/configs/")
    with pytest.raises(SystemExit) as stop:
        cli(*shlex.split(words), "--print_config")
    assert not stop.value.code
    trainer = yaml.safe_load(capsys.readouterr().out)["trainer"]
    if "num_nodes" in line:
        assert int(trainer["num_nodes"]) * int(trainer["devices"]) == 8
    if "$FOLD" in line:
        assert trainer["logger"]["init_args"]["name"] == "hippocampus/fold-3"


def test_scripts_are_valid():
    for script in SCRIPTS:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_the_function_for_schedulers_trains_scores_and_goes_on(cli, mine, capsys):
    names = {}
    exec(CODE.replace('"--config", "hippocampus"', f'"--config", "{mine}"'), names)  # the page's own code
    for _ in range(2):
        names["train"](0)
    assert len(list(Path("runs/hippocampus/fold-0").glob("*/checkpoints/last.ckpt"))) == 1
    assert len(list(Path("runs/hippocampus/fold-0").glob("*/summary.json"))) == 2
    assert "so nothing is left to train" in capsys.readouterr().err


@pytest.mark.slow
def test_two_agents_on_one_machine_train_together(mine, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = TORCHRUN.replace("node1:29500", f"127.0.0.1:{port}").replace("synapse --trainer", f"{mine} --trainer")
    words = words.replace("nproc_per_node 4", "nproc_per_node 1").replace("devices 4", "devices 1")
    command = [sys.executable, "-m", "torch.distributed.run", *shlex.split(words)[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    how = dict(cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    agents = [subprocess.Popen(command, **how) for _ in range(2)]
    said = [agent.communicate()[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], "\n".join(said)
    both = "\n".join(said)
    assert both.count("Each optimiser step sees 8 samples: 4 on each of 2 processes.") == 1
    assert both.count("so training starts anew") == 1
    assert both.count("Run folder:") == 1
    assert (tmp_path / "runs/demo/version_0/checkpoints/last.ckpt").is_file()
