"""Children of the test process report their status and all that they print, and leave it as it was."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from forks import apart, forget, run_apart


def fail():
    raise ValueError("broken")


def leave():
    print("said", end="")
    sys.exit(3)


@pytest.mark.parametrize(
    ("action", "status", "said", "complained"),
    [
        (lambda: print("said", end=""), 0, "said", ""),
        (leave, 3, "said", ""),
        (fail, 70, "", "ValueError: broken\n"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), -9, "", ""),
    ],
)
def test_status_and_output(action, status, said, complained):
    done = apart(action)
    assert (done.returncode, done.stdout) == (status, said)
    assert done.stderr.endswith(complained)
    assert bool(done.stderr) == bool(complained)


def test_children_of_a_group_know_their_rank_and_this_process_stays_as_it_was(tmp_path):
    before = dict(os.environ), Path.cwd()

    def action():
        forget("mlla_seg")
        print(os.environ["LOCAL_RANK"], Path.cwd() == tmp_path, "mlla_seg" in sys.modules)

    done = apart(action, tmp_path, ranks=2)
    assert sorted(done.stdout.splitlines()) == ["0 True False", "1 True False"]
    assert (dict(os.environ), Path.cwd(), "mlla_seg" in sys.modules) == (*before, True)


def test_mistakes_of_users_are_said_by_the_program():
    done = run_apart("fitt")
    assert done.returncode == 2
    assert done.stderr.startswith("error: Unknown command 'fitt'. Did you mean fit?")
