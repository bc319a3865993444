"""Plans of studies: what a file may say, what a run is asked, and which runs are chosen."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from conftest import ROOT
from mlla_seg.data.shipped import is_study, shipped
from mlla_seg.errors import InputError
from mlla_seg.study.plan import (
    Plan,
    asked,
    check,
    chosen,
    differences,
    make_variants,
    own_options,
    require_known_options,
)
from mlla_seg.study.runs import commands

CONTENT = {
    "mlla": {"title": "MLLA"},
    "lepe": {"options": {"model": {"mixer": "lepe"}}, "seeds": [0], "paper": 82.1},
    "+gate": {"title": "gate", "options": {"model.lr": 1e-3, "data.crop": None}},
}
STUDIES = [path for path in shipped("configs").glob("*.yaml") if is_study(yaml.safe_load(path.read_text()))]


def plan_of(content=CONTENT, seeds=(0, 1), options=None, **changes):
    plan = Plan("hippocampus", options or {}, make_variants(content, seeds), 10, None, "validate", "", 1, Path("out"))
    return replace(plan, **changes)


def test_the_first_seed_of_all_comes_before_the_second():
    plan = plan_of()
    assert list(map(str, plan.runs())) == ["mlla/0", "lepe/0", "+gate/0", "mlla/1", "+gate/1"]
    assert plan.runs()[-1].folder == Path("out/+gate/seed-1")
    assert [variant.title for variant in plan.variants] == ["MLLA", "lepe", "gate"]
    assert plan.variants[1].options == {"model.mixer": "lepe"}
    assert list(map(str, chosen(plan, ["+gate", "mlla/1", "+gate/0"]))) == ["+gate/0", "+gate/1", "mlla/1"]


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ({}, "variants is empty: give at least one"),
        ({"a/b": {}}, "Variant 'a/b' names a folder: use only letters"),
        ({"..": {}}, "Variant '..' names a folder"),
        ({"a": "lepe"}, "Variant a: expected {title, options, seeds, paper}, found 'lepe'."),
        ({"a": {"titel": "x"}}, "Unknown key of variant a 'titel'. Did you mean title?"),
        ({"a": {"options": ["x"]}}, "Variant a: options takes pairs such as model.mixer: lepe, found ['x']."),
        ({"a": {"seeds": [0, 0]}}, "Variant a: seeds takes a list of different whole numbers, found [0, 0]."),
        ({"a": {"seeds": 3}}, "Variant a: seeds takes a list of different whole numbers, found 3."),
        ({"a": {"paper": "high"}}, "Variant a: paper takes a number, found 'high'."),
        ({"a": {"options": {"trainer.max_epochs": 3}}}, "Variant a: trainer.max_epochs is set by the study itself"),
        ({"a": {"options": {"trainer": {"max_time": {"hours": 3}}}}}, "use its key minutes"),
        ({"a": {"options": {"data.seed": 3}}}, "use its key seeds"),
    ],
)
def test_mistakes_in_variants_are_named(content, answer):
    with pytest.raises(InputError) as caught:
        make_variants(content, [0])
    assert answer in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"minutes": 3.0}, "give either steps or minutes"),
        ({"steps": None}, "give either steps or minutes"),
        ({"steps": 0}, "must be more than 0, got 0 and 1"),
        ({"jobs": 0}, "must be more than 0, got 10 and 0"),
        ({"base": "hipocampus"}, "Did you mean hippocampus or hippocampus3d?"),
        (
            {"options": {"model.mixr": "lepe"}},
            "Unknown option of options: 'model.mixr'. Did you mean model.mixer or model.lr? Known: model.",
        ),
        ({"options": {"data.krop": 1}}, "Did you mean data.crop or"),
        ({"options": {"modle.lr": 1}}, "Did you mean model.lr"),
    ],
)
def test_mistakes_in_plans_are_named(changes, answer):
    plan = plan_of(**changes)
    refuse = require_known_options if "options" in changes else check
    with pytest.raises(InputError) as caught:
        refuse(plan)
    assert answer in str(caught.value)


def test_what_is_asked_is_all_that_decides_a_run():
    plan = plan_of(options={"data.root": "here"})
    run = plan.runs()[2]
    first = asked(plan, run, 2)
    assert json.loads(json.dumps(first)) == first
    assert (first["steps"], first["seed"], first["data.root"], first["model.lr"]) == (10, 0, "here", 1e-3)
    assert "threads" not in first  # steps take what they take
    assert not {"trainer.max_time", "seed_everything", "trainer.logger"} & set(first)
    assert differences(first, asked(plan, run, 4)) == []
    other = plan_of({**CONTENT, "+gate": {"options": {"model.lr": 2e-3}}}, options={"data.root": "here"}, steps=20)
    assert differences(first, asked(other, other.runs()[2], 2)) == [
        "steps was 10, now 20",
        "model.lr was 0.001, now 0.002",
        "data.crop was None, now [96, 64]",
    ]
    timed = replace(plan, steps=None, minutes=3.0)
    assert differences(asked(timed, run, 2), asked(timed, run, 1)) == ["threads was 2, now 1"]


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ({}, ["--trainer.max_steps=10", "--trainer.max_epochs=-1", "--trainer.max_time=null"]),
        (
            {"steps": None, "minutes": 1530.5},
            ["--trainer.max_steps=-1", "--trainer.max_epochs=-1", "--trainer.max_time=01:01:30:30"],
        ),
    ],
)
def test_a_run_is_what_a_user_would_type(budget, expected):
    plan = plan_of(**budget)
    run = plan.runs()[2]
    of = commands(plan, run)
    fit, score = of["trained"], of["scored"]
    assert fit[:3] == ["fit", "--config", "hippocampus"]
    assert {"--seed_everything=0", "--data.seed=0", "--model.lr=0.001", "--data.crop=null", *expected} <= set(fit)
    assert score[0] == "validate"
    assert score[score.index("--ckpt_path") + 1] == "out/+gate/seed-0/trained/checkpoints/last.ckpt"
    assert {"--model.lr=0.001", "--distances=false"} <= set(score)
    assert {"--distances=true", "--surface_area=false"} <= set(commands(replace(plan, metric="nsd"), run)["scored"])
    assert {"--distances=true", "--surface_area=true"} <= set(commands(replace(plan, metric="nsd_area"), run)["scored"])
    assert json.loads(fit[-1].partition("=")[2])["init_args"] == {
        "save_dir": "out/+gate",
        "name": "seed-0",
        "version": "trained",
    }


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_shipped_studies_can_be_run(path):
    content = yaml.safe_load(path.read_text())
    keys = ("base", "steps", "minutes", "split", "output")
    base, steps, minutes, split, output = (content.get(key) for key in keys)
    variants = make_variants(content["variants"], content["seeds"])
    plan = Plan(base, content.get("options", {}), variants, steps, minutes, split, "", 1, Path(output))
    check(plan)
    require_known_options(plan)
    assert len(plan.runs()) >= 2 * len(variants)


def test_the_study_of_the_documentation_can_be_run():
    (block,) = re.findall(r"```yaml\n(base:.*?)```", (ROOT / "docs/training.md").read_text(), flags=re.DOTALL)
    content = yaml.safe_load(block)
    plan = plan_of(content["variants"], content["seeds"], own_options(content["options"], "options"))
    require_known_options(plan)
    assert len(plan.runs()) == 18


def test_the_mixers_study_is_shipped():
    assert ROOT / "configs/study.yaml" in STUDIES
