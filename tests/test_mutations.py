"""A part of ``benchmarks/mutations.py``: changed files of every format are read or refused in a line."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from mutation_samples import KINDS
from mutations import CHANGES, READ, REFUSED, campaign, mutated

COUNT = 25
NAMES = [name for name in KINDS if not name.startswith("openvino")]  # its threads do not live on in forked processes


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_a_changed_file_is_read_or_refused(name):
    found = campaign(KINDS[name], COUNT)
    assert found[READ] + found[REFUSED] == COUNT, found
    assert found[REFUSED] > COUNT // 10


def test_the_same_seed_makes_the_same_files():
    content = b"width = 12, height = 13 " * 9
    first, again, other = (mutated(content, random.Random(seed)) for seed in (1, 1, 2))
    assert first == again != other
    for change in CHANGES:
        assert any(change(content, random.Random(seed)) != content for seed in range(9))
