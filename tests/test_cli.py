"""The command line around its commands: options of several words, shipped configs, program name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from mlla_seg import cli as module
from mlla_seg.cli import COMMANDS, ensemble, gather
from mlla_seg.data.shipped import find_config, read_config, shipped, with_recipe
from mlla_seg.errors import InputError, program


@pytest.mark.parametrize(
    ("words", "gathered"),
    [
        (["--sizes", "224", "512", "--compile", "true"], ["--sizes", "[224, 512]", "--compile", "true"]),
        (["--sizes=224", "512"], ["--sizes", "[224, 512]"]),
        (["--sizes", "fp32"], ["--sizes", '["fp32"]']),
        (["--sizes", "a, b.ckpt", "c"], ["--sizes", '["a, b.ckpt", "c"]']),
        (["--sizes", "[1,2]"], ["--sizes", "[1,2]"]),
        (["--size", "1"], ["--size", "1"]),
        (["--sizes"], ["--sizes"]),
    ],
)
def test_several_words_become_a_list(words, gathered):
    assert gather("sizes", ["benchmark", *words]) == ["benchmark", *gathered]


@pytest.mark.parametrize(
    ("words", "gathered"),
    [
        (["--ckpt_path", "a"], ["--ckpt_path", "a"]),
        (["--ckpt_path=a", "b", "--tta", "true"], ["--ckpt_path", "a", "--tta", "true", "--members", '["b"]']),
        (["--members", '["c"]', "--ckpt_path", "a", "b"], ["--ckpt_path", "a", "--members", '["b", "c"]']),
        (["--members", "c", "d", "--ckpt_path", "a"], ["--ckpt_path", "a", "--members", '["c", "d"]']),
        (["--config", "x.yaml"], ["--config", "x.yaml"]),
    ],
)
def test_no_checkpoint_of_an_ensemble_is_lost(words, gathered):
    assert ensemble(["test", *words]) == ["test", *gathered]


def test_lists_of_tools_are_gathered_by_their_signatures(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        "mlla_seg.inference.predictor.segment_files", lambda *a, **k: pytest.fail("no checkpoint is there")
    )
    monkeypatch.setattr(
        "mlla_seg.inference.predictor.Predictor.from_checkpoint",
        lambda *paths, **how: seen.update(paths=paths) or (_ for _ in ()).throw(InputError("enough")),
    )
    with pytest.raises(SystemExit):
        module.main(["predict", "--ckpt_path", "a.ckpt", "b.ckpt", "--input", "x", "--output", "y"])
    assert seen["paths"] == ("a.ckpt", "b.ckpt")


@pytest.mark.parametrize("name", ["synapse.yaml", "synapse", "configs/synapse.yaml"])
def test_shipped_configs_are_found_from_anywhere(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == str(shipped("configs") / "synapse.yaml")
    (tmp_path / "synapse.yaml").write_text("own")
    assert find_config("synapse.yaml") == "synapse.yaml"


def test_configs_that_are_not_there_are_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"Unknown config 'synaps'\. Did you mean synapse\?"):
        find_config("synaps.yaml")
    with pytest.raises(InputError, match=r"elsewhere/synapse\.yaml: no such file\. There is no folder elsewhere"):
        find_config("elsewhere/synapse.yaml")


def test_folder_of_a_project_stands_for_its_config(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match=r"mine: no such file\. mine has no YAML files"):
        find_config("mine")
    (tmp_path / "mine/config.yaml").write_text("data: {}")
    assert find_config("mine") == "mine/config.yaml"
    with pytest.raises(InputError, match=r"mine/config\.yml: no such file\. mine has config\.yaml\."):
        find_config("mine/config.yml")


def test_configs_are_listed_and_copied(cli, capsys, tmp_path):
    cli("configs")
    listed = capsys.readouterr().out
    for path in shipped("configs").glob("*.yaml"):
        assert f"\n{path.stem} " in f"\n{listed}"
    assert "\nStudy: python cli.py study --config study or study_wildfire\n" in listed
    assert "\nPretrain: python cli.py pretrain --config pretrain_imagenet" in listed
    cli("configs", "--copy", "synapse", "acdc.yaml", "--output", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["acdc.yaml", "synapse.yaml"]
    assert (tmp_path / "acdc.yaml").read_text() == (ROOT / "configs/acdc.yaml").read_text()
    with pytest.raises(SystemExit):
        cli("configs", "--copy", "synapse", "--output", tmp_path)
    assert "already exists. Move it" in capsys.readouterr().err


def test_configs_start_from_their_recipe_and_change_it(tmp_path, monkeypatch):
    recipe = read_config("configs/recipes/organs.yaml")
    synapse = read_config("synapse")
    assert synapse.pop("recipe") == "organs"
    assert synapse.pop("evaluation") == "transunet"
    own = {"card": "synapse", "root": "data/synapse", "batch_size": 24}
    assert synapse == {**recipe, "data": {**recipe["data"], **own}}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("recipe: organ\n")
    with pytest.raises(InputError, match=r"Unknown recipe of mine\.yaml: 'organ'\. Did you mean organs\?"):
        with_recipe("mine.yaml")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/organ.yaml").write_text("model: {lr: 1.0}\n")
    assert with_recipe("mine.yaml") == ["recipes/organ.yaml", "mine.yaml"]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_says_what_was_measured(path):
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert re.search(r"not measured|(IoU|Dice) 0\.\d|minutes", first)


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("cli.py", "python cli.py"),
        ("/usr/bin/mlla-seg", "mlla-seg"),
        ("/x/mlla_seg/__main__.py", "python -m mlla_seg"),
        ("/x/python3", "mlla-seg"),
    ],
)
def test_messages_name_the_command_that_was_typed(monkeypatch, tmp_path, called, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [called])
    assert program() == name
    assert f"usage: {name} COMMAND" in module.overview()


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (
            ["fit", "--data.augment=aeral"],
            "Unknown --data.augment 'aeral'. Did you mean aerial? Known: none, transunet",
        ),
        (["fit", "--data.plane=axal"], "Unknown --data.plane 'axal'. Did you mean axial?"),
        (["fit", "--data.mirror=[row]"], "Unknown --data.mirror 'row'. Did you mean rows?"),
        (["fit", "--evaluation=natve"], "Unknown --evaluation 'natve'. Did you mean native?"),
        (["fit", "--data.batch_size=many"], "--data.batch_size takes a whole number, got many."),
        (["fit", "--model.block=mambo"], "Unknown --model.block 'mambo'. Did you mean mamba?"),
        (["fit", "--data.no_such=1"], "--data.no_such"),
        (["fit", "--trainer.maxsteps=1"], "Unknown option --trainer.maxsteps. Did you mean --trainer.max_steps?"),
        (["fit", "--max_steps=1"], "Unknown option --max_steps. Did you mean --trainer.max_steps?"),
        (["validate", "--data.batchsize", "4"], "Unknown option --data.batchsize. Did you mean --data.batch_size?"),
        (["fit", "--recipe=organs"], "recipe is a key of configs"),
        (["predict", "--ckpt_path=a", "--input=b", "--output=c", "--blend=cosin"], "Unknown --blend 'cosin'. Did you"),
        (["predict", "--compile=atuo"], "Unknown --compile 'atuo'. Did you mean auto? Known: true, false, auto"),
        (["predict", "--input=b", "--output=c"], "required: ckpt_path"),
        (["fit", "--ckpt_path=[1"], "--ckpt_path [1: is not a list of checkpoints"),
        (["fit", f"--model.lr={'[' * 5000}"], "--model.lr takes a number, got [[["),
        (["fit", f"--model={'x' * 5000}.yaml"], "xxx ... xxx"),
        (["fit", f"--model.lr={'x' * 200}{'[' * 5000}"], "[[[ ... [[["),
        (["predict", f"--ckpt_path={'x' * 5000}", "--input=b", "--output=c"], "xxx: no file can have such a long name"),
        (["predict", "--inptu=b", "--output=c"], "Unknown option 'inptu'. Did you mean input? Known: ckpt_path"),
        (["fit", "--config=study"], "study.yaml is a study of many trainings: run it with python cli.py study"),
        (
            ["study", "--config", "studdy"],
            "no shipped config with this name. Unknown config 'studdy'. Did you mean study",
        ),
        (["study", "--config", "hippocampus"], "Known: base, variants, options, seeds, steps"),
    ],
)
def test_mistakes_in_options_are_answered_in_a_line(cli, capsys, words, answer):
    with pytest.raises(SystemExit) as caught:
        cli(*words)
    assert caught.value.code == 2
    said = capsys.readouterr().err.strip()
    assert answer in said
    assert len([line for line in said.splitlines() if line.startswith("error") or line.startswith(" ")]) == 1


ALIASES = "a0: &a0 [x, x]\n" + "".join(f"a{k + 1}: &a{k + 1} [{', '.join([f'*a{k}'] * 9)}]\n" for k in range(9))
CONFIGS = {
    "brackets.yaml": ("[" * 5000, "100 lists|nesting"),
    "aliases.yaml": (ALIASES, "100,000 values"),
    "itself.yaml": ("config: itself.yaml", "loop"),
    "names_aliases.yaml": ("model: aliases.yaml", "100,000 values"),
    "names_latin.yaml": ("model: latin.yaml", "0xe9"),
    "chain0.yaml": ("config: chain1.yaml", "too deep"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_that_never_end_or_burst_are_answered_in_a_line(cli, capsys, tmp_path, monkeypatch, name):
    """Also those that are named within configs, which the parser reads."""
    monkeypatch.chdir(tmp_path)
    for other, (text, _) in CONFIGS.items():
        Path(other).write_text(text)
    Path("latin.yaml").write_bytes(b"lr: caf\xe9")
    for k in range(1, 1000):
        Path(f"chain{k}.yaml").write_text(f"config: chain{k + 1}.yaml")
    Path("chain1000.yaml").write_text("model: {lr: 1}")
    for command in ("fit", "predict"):
        with pytest.raises(SystemExit) as caught:
            cli(command, "--config", name)
        assert caught.value.code == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1
        assert re.search(CONFIGS[name][1], said[0]) or (command == "predict" and "ption" in said[0])


@pytest.mark.parametrize(
    ("command", "choices"),
    [
        ("fit", "{mlla,transformer,mamba}"),
        ("fit", "{native,transunet}"),
        ("predict", "{gaussian,cosine}"),
        ("export", "onnx,torch_export"),
        ("benchmark", "mlla_unet,mlla_unet_fine,unet"),
    ],
)
def test_help_lists_the_choices(cli, capsys, command, choices):
    with pytest.raises(SystemExit):
        cli(command, "--help")
    assert choices in "".join(capsys.readouterr().out.split())


def test_the_package_can_be_run():
    result = subprocess.run([sys.executable, "-m", "mlla_seg"], capture_output=True, text=True, cwd=ROOT, check=True)
    assert all(f"{command} " in result.stdout for command in COMMANDS)
