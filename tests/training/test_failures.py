"""A training that memory, a loader process or another process ends says so in one line, and its checkpoint is whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_kills import killing, options_for

from conftest import ROOT, TINY
from forks import run_apart
from mlla_seg.training.failures import in_a_line

IN_USE = {"batch_size": 24, "crop": [64, 64], "num_workers": 3, "eval_batch_size": 16}


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            RuntimeError("DataLoader worker (pid 71) is killed by signal: Killed. "),
            r"A loader process \(71\) was ended by the signal Killed; .* Lower --data\.num_workers \(now 3\)",
        ),
        (RuntimeError("DataLoader worker (pid(s) 71, 72) exited unexpectedly"), r"process \(71, 72\) ended unexpect"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ..."),
            r"The shared memory in /dev/shm is full \(\d+ of \d+ MB are free\)\. .*--shm-size",
        ),
        (RuntimeError("unable to write to file </torch_7_8_0>: No space left on device (28)"), "The shared memory in"),
        (RuntimeError("received 0 items of ancdata"), "Too many files are open. Allow more with ulimit -n"),
        (OSError(24, "Too many open files"), "Too many files are open"),
        (RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:7"), "Another process"),
        (
            ValueError("Expected more than 1 value per channel when training, got input size torch.Size([1, 8, 1, 1])"),
            r"more than one value per channel.* raise --data\.batch_size \(now 24\) or --data\.crop \(now \[64, 64\]\)",
        ),
        (MemoryError("Unable to allocate 8 EiB"), r"--data\.batch_size 24 and --data\.crop \[64, 64\]\. Lower one"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), r"--model\.checkpoint_stages all"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"), "Out of memory in"),
    ],
)
def test_known_failures_have_a_line(error, line):
    found = in_a_line(error, IN_USE)
    assert "\n" not in found
    assert pytest.raises(AssertionError, match=line).matches(AssertionError(found)), found


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("x")])
def test_mistakes_of_the_program_keep_their_traceback(error):
    assert in_a_line(error, IN_USE) is None


def test_too_large_arrays_are_out_of_memory():
    for allocate in (lambda: np.empty(2**58, np.uint8), lambda: torch.empty(2**58, dtype=torch.uint8)):
        with pytest.raises((MemoryError, RuntimeError)) as refused:
            allocate()
        assert "Out of memory" in in_a_line(refused.value, IN_USE)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--trainer.strategy=fsdp", "`fsdp` requires a GPU accelerator"),
        ("--trainer.strategy=deepspeed", "DeepSpeed"),
        ("--trainer.strategy=deepspeed_stage_2", "DeepSpeed"),
        ("--trainer.strategy=ddp_spawn", "does not start this program's processes: use ddp."),
        ("--trainer.strategy=xla", "torch_xla"),
        ("--trainer.accelerator=tpu", "torch_xla"),
        ("--trainer.devices=-2", "should be an int > 0"),
        ("--trainer.strategy=unheard_of", "invalid strategy name"),
        ("--trainer.accumulate_grad_batches=0", "must be 1 or more, got 0"),
        ("--trainer.val_check_interval=1000", r"must be less than or equal to the number of the training batches"),
    ],
)
def test_options_that_lightning_refuses_are_answered_in_a_line(cli, capsys, phantom_root, option, message):
    with pytest.raises(SystemExit) as stop:
        cli("fit", f"--config={ROOT / 'configs/demo.yaml'}", f"--data.root={phantom_root}", *TINY, option)
    assert stop.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last


def test_an_average_of_divided_weights_is_refused(cli, capsys, phantom_root):
    words = [
        "--trainer.strategy={class_path: fsdp_on_cpu.CpuFSDP}",
        "--trainer.callbacks+=mlla_seg.training.ema.WarmEMA",
    ]
    with pytest.raises(SystemExit):
        cli("fit", f"--config={ROOT / 'configs/demo.yaml'}", f"--data.root={phantom_root}", *TINY, *words)
    assert "so WarmEMA cannot average them: use ddp, or leave the average out with --trainer.callbacks null." in (
        capsys.readouterr().err
    )


def test_a_killed_loader_process_ends_training_in_a_line(cli, capsys, phantom_root):
    options = options_for(phantom_root)
    kill = "{class_path: killer.KillWorkers, init_args: {step: 4}}"
    with pytest.raises(SystemExit) as stop:
        cli("fit", *(o for o in options if "callbacks" not in o), f"--trainer.callbacks=[{kill}]")
    assert stop.value.code == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(told) == 1
    assert "A loader process (" in told[0]
    assert torch.load("runs/demo/version_0/checkpoints/last.ckpt", weights_only=True)["global_step"] == 3


@pytest.mark.slow
def test_where_one_of_two_processes_is_killed_the_other_ends_too(cli, phantom_root):
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.num_workers=0"]
    ended = run_apart("fit", *killing(options_for(phantom_root), "SIGKILL", 4, rank=1), *two)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.count("error: Another process of this training ended") == 1
    assert "Traceback" not in ended.stderr
    last = Path("runs/demo/version_0/checkpoints/last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 3
    assert not list(last.parent.glob(".tmp-*"))
