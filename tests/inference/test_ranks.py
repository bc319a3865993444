"""Which of several processes this one is, as its starter says."""

from __future__ import annotations

import pytest

from mlla_seg.errors import InputError
from mlla_seg.inference.ranks import ALONE, Ranks, ranks_of
from mlla_seg.progress import complain, note, note_own, say


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ALONE),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, Ranks(3, 4, 1)),
        ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "0"}, Ranks(2, 8, 0)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, ALONE),  # in a batch script, without srun
        ({"RANK": "0", "WORLD_SIZE": "1", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, ALONE),
        ({"LOCAL_RANK": "1"}, ALONE),
    ],
)
def test_variables_of_torchrun_and_srun(environment, expected):
    assert ranks_of(environment) == expected


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("-1", "2"), ("one", "2"), ("0", "x")])
def test_variables_that_contradict_each_other(rank, size):
    with pytest.raises(InputError, match=f"^RANK={rank}, WORLD_SIZE={size}: no process has this number"):
        ranks_of({"RANK": rank, "WORLD_SIZE": size})


def test_an_own_share_comes_first_and_then_what_others_have_last():
    assert ALONE.in_turn(5) == [0, 1, 2, 3, 4]
    assert Ranks(0, 3).in_turn(7) == [0, 1, 6, 5, 4, 3, 2]
    assert Ranks(1, 3).in_turn(7) == [2, 3, 6, 5, 4, 1, 0]
    assert Ranks(2, 3).in_turn(7) == [4, 5, 6, 3, 2, 1, 0]
    assert Ranks(5, 9).in_turn(2) == [1, 0]


def test_only_the_first_process_speaks_but_each_tells_its_errors(capsys):
    for rank in (0, 1):
        with Ranks(rank, 2).speaking():
            say("result")
            note("note: all")
            note_own("note: own")
            complain("wrong")
    said = capsys.readouterr()
    assert said.out == "result\n"
    assert said.err == "note: all\nnote: own\nerror: wrong\nnote: own\nerror: wrong\n"
