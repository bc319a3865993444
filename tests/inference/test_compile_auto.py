"""``compile="auto"``: kept code is used, and code is made only where that saves time; labels are the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from compiled import IMAGE, make_package
from jobs import Pixelwise, spec_of
from layouts import write_scene
from maps import noise
from mlla_seg import Predictor, locks
from mlla_seg.errors import InputError
from mlla_seg.inference import compile_auto, compile_cache
from mlla_seg.inference.compile_auto import MEASURED, WORTH, CompiledIfWorthwhile, compile_if_worthwhile, obstacle
from mlla_seg.inference.files import segment_files
from mlla_seg.inference.optimize import for_inference
from mlla_seg.inference.ranks import Ranks
from mlla_seg.inference.scenes import MapOptions
from mlla_seg.models import create_model
from mlla_seg.progress import note_once


@pytest.fixture(autouse=True)
def notes():
    note_once.cache_clear()


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return make_package(tmp_path_factory)


@pytest.fixture
def folder(tmp_path):
    """An empty cache."""
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def compiler(package, monkeypatch):
    """What was compiled; the compiler is replaced by a copy of what it makes, which takes seconds."""
    made = []

    def copy(path, network, x):
        made.append(tuple(x.shape))
        path.write_bytes(package.read_bytes())

    monkeypatch.setattr(compile_cache, "compile_to", copy)
    return made


class Auto:
    """A network that may compile itself, and the same uncompiled."""

    def __init__(self, folder):
        self.network = for_inference(Pixelwise().eval(), compile="auto", compile_cache=folder)
        self.plain = for_inference(Pixelwise().eval())

    @property
    def forward(self) -> CompiledIfWorthwhile:
        return vars(self.network)["forward"]

    @torch.inference_mode()
    def runs_code(self, image=IMAGE) -> bool:
        """Run both, and return whether one ran code."""
        torch.testing.assert_close(self.network(image), self.plain(image), atol=1e-5, rtol=0)
        return self.forward.shape == tuple(IMAGE.shape)

    def works(self, seconds, left):
        """Let images take so long, and then be told how much is left."""
        self.forward.spent = seconds
        compile_auto.expect(self.network, left / seconds)


def test_code_that_is_kept_is_used_at_once_and_without_a_compiler(folder, package, compiler, monkeypatch, capsys):
    (folder / package.name).write_bytes(package.read_bytes())
    monkeypatch.setenv("CXX", "no-such-compiler")
    auto = Auto(folder)
    assert auto.runs_code()
    auto.works(MEASURED, 2 * WORTH)
    assert auto.runs_code()
    assert compiler == []
    said = capsys.readouterr().err
    assert said.startswith("Using code that was compiled before for images of 32 x 32 pixels, 2 at a time: ")
    assert said.count("\n") == 1


def test_a_long_job_is_compiled_once_its_pace_is_known(folder, compiler, capsys):
    auto = Auto(folder)
    assert not auto.runs_code()
    auto.works(MEASURED / 2, 2 * WORTH)
    assert not auto.runs_code()
    auto.works(MEASURED, 2 * WORTH)
    assert not auto.runs_code(IMAGE[..., 1:])  # which is not compiled for
    assert not auto.runs_code(IMAGE[:1])
    assert compiler == []
    assert auto.runs_code()
    assert compiler == [tuple(IMAGE.shape)]
    said = capsys.readouterr().err
    assert said.startswith("note: --compile auto compiles, as about 40 minutes of work are left.\n")
    assert "Compiling for images of 32 x 32 pixels, 2 at a time" in said
    assert not list(folder.glob(".*"))  # no locks


def test_a_short_job_is_not_and_says_so_once(folder, compiler, capsys):
    auto = Auto(folder)
    auto.runs_code()
    for seconds in (20, 30):
        auto.works(seconds, WORTH)
        assert not auto.runs_code()
    assert capsys.readouterr().err == (
        "note: --compile auto does not compile: the job takes about 20 minutes, and compiling saves time from 20 "
        "minutes on.\n"
    )
    assert compiler == []
    auto.works(40, 2 * WORTH)  # the first images were quicker than the others
    assert auto.runs_code()


def test_time_of_other_sizes_does_not_count(folder):
    auto = Auto(folder)
    auto.runs_code()
    before = auto.forward.spent
    assert before > 0
    auto.runs_code(IMAGE[..., 1:])
    assert auto.forward.spent == before
    auto.runs_code(IMAGE[:1])
    assert auto.forward.spent > before


def test_the_code_of_another_process_is_taken_up_when_it_is_there(folder, package, compiler, capsys):
    auto = Auto(folder)
    auto.runs_code()
    auto.works(MEASURED, 2 * WORTH)
    path = folder / package.name
    with locks.held(path, str):
        assert not auto.runs_code()
        auto.works(MEASURED, 0)  # which it does not decide any more
        assert not auto.runs_code()
        path.write_bytes(package.read_bytes())
        assert auto.runs_code()
    assert compiler == []
    said = capsys.readouterr().err
    assert " compiles the same network; going on uncompiled until its code is there.\n" in said
    assert "does not compile" not in said


def test_wrong_code_of_another_process_is_not_used(folder, package, compiler, capsys):
    auto = Auto(folder)
    auto.runs_code()
    auto.works(MEASURED, 2 * WORTH)
    with locks.held(folder / package.name, str):
        auto.runs_code()
    (folder / package.name).write_bytes(b"")
    assert not auto.runs_code()
    assert "does not compile: the code of another process gives other logits." in capsys.readouterr().err
    assert compiler == []


def test_a_damaged_package_is_not_used_and_made_again_only_for_a_long_job(folder, package, compiler, capsys):
    (folder / package.name).write_bytes(package.read_bytes()[:1000])
    auto = Auto(folder)
    assert not auto.runs_code()
    assert "pt2 is damaged, or not made for this network, so it is not used.\n" in capsys.readouterr().err
    assert compiler == []
    auto.works(MEASURED, 2 * WORTH)
    assert auto.runs_code()
    assert compiler == [tuple(IMAGE.shape)]


FAULTS = [
    InputError("This network cannot be compiled here"),
    OSError(28, "No space left on device"),
    MemoryError("out of memory"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
def test_a_compiler_that_fails_ends_nothing(folder, fault, monkeypatch, capsys):
    tried = []

    def fail(*_):
        tried.append(1)
        raise fault

    monkeypatch.setattr(compile_cache, "compile_to", fail)
    auto = Auto(folder)
    auto.runs_code()
    auto.works(MEASURED, 2 * WORTH)
    assert not auto.runs_code()
    assert not auto.runs_code()
    assert tried == [1]
    assert f"note: --compile auto does not compile: {fault}.\n" in capsys.readouterr().err
    assert not list(folder.iterdir())


def test_code_with_other_logits_is_not_used(folder, package, monkeypatch, capsys):
    other = Pixelwise().eval()
    other.conv.weight.data[0, 0, 0, 0] += 0.1
    monkeypatch.setattr(compile_cache, "compile_to", lambda path, *_: path.write_bytes(package.read_bytes()))
    network, plain = for_inference(other, compile="auto", compile_cache=folder), for_inference(other)
    with torch.inference_mode():
        network(IMAGE)
        vars(network)["forward"].spent = MEASURED
        compile_auto.expect(network, WORTH)
        assert (network(IMAGE) == plain(IMAGE)).all()
    assert "does not compile: This network gives other logits when it is compiled here" in capsys.readouterr().err
    assert not list(folder.iterdir())


def test_what_stands_in_the_way_is_said(folder, tmp_path, monkeypatch, capsys):
    def said(network=None, device="cpu", cache=folder):
        compile_if_worthwhile(network := network or Pixelwise(), device, cache)
        return capsys.readouterr().err, "forward" in vars(network)

    start = "note: --compile auto does not compile: "
    assert said() == ("", True)
    assert said(device="cuda:0") == (
        f"{start}it keeps code for CPUs only; --compile true compiles at each start.\n",
        False,
    )
    text, replaced = said(create_model("mlla_test", mixer="selective_ssm"))
    assert text.startswith(f"{start}Token mixer selective_ssm visits pixels in turn,")
    assert not replaced
    folder.chmod(0o770)
    text, replaced = said()
    assert "others can write to it, so code from it is not run." in text
    assert not replaced


def test_images_that_are_not_compiled_for(folder, compiler, monkeypatch, capsys):
    assert obstacle(torch.empty(1, 1, 512, 512)) is None
    assert "images of more than 262144 pixels" in obstacle(torch.empty(1, 1, 512, 513))
    assert "volumes" in obstacle(torch.empty(1, 1, 8, 8, 8))
    monkeypatch.setenv("CXX", "no-such-compiler")
    auto = Auto(folder)
    auto.runs_code()
    auto.works(MEASURED, 2 * WORTH)
    assert not auto.runs_code()
    assert capsys.readouterr().err == (
        "note: --compile auto does not compile: it needs a C++ compiler; no-such-compiler was not found. Install one, "
        "or set CXX=...\n"
    )
    assert compiler == []


@pytest.mark.parametrize("value", ["Auto", "true", None, 1])
def test_other_values_are_refused(value):
    with pytest.raises(InputError, match=r'^compile must be True, False or "auto", got '):
        for_inference(nn.Identity(), compile=value)


@pytest.mark.parametrize(
    ("words", "value"),
    [([], False), (["--compile"], True), (["--compile=auto"], "auto"), (["--compile", "false"], False)],
)
def test_the_option_reaches_the_network(cli, monkeypatch, words, value):
    seen = []

    def from_checkpoint(*_, **how):
        seen.append(how["compile"])
        raise InputError("enough")

    monkeypatch.setattr(Predictor, "from_checkpoint", from_checkpoint)
    with pytest.raises(SystemExit):
        cli("predict", "--ckpt_path=a", "--input=b", "--output=c", *words)
    assert seen == [value]


class Told(Predictor):
    """Keeps what its engine is told of the work that is left."""

    def __init__(self, network, spec, **how):
        super().__init__(network, spec, **how)
        self.told = []
        expect = self.engine.expect
        self.engine.expect = lambda left: (self.told.append(left), expect(left))


def test_a_folder_is_compiled_for_when_it_is_long(tmp_path, folder, compiler, monkeypatch, capsys):
    (tmp_path / "in").mkdir()
    for k in range(4):
        image = np.random.default_rng(k).normal(40, 20, (2, 32, 32)).astype(np.float32)
        np.savez(tmp_path / f"in/{k}.npz", image=image)
    plain = Predictor(Pixelwise(), spec_of())
    segment_files(plain, tmp_path / "in", tmp_path / "plain", MapOptions())
    segment_files(
        auto := Told(Pixelwise(), spec_of(), compile="auto", compile_cache=folder),
        tmp_path / "in",
        tmp_path / "short",
        MapOptions(),
    )
    assert auto.told == [3, 1, 1 / 3, 0]
    assert compiler == []
    assert "does not compile: the job takes about 0 seconds, and" in capsys.readouterr().err
    auto.told.clear()
    segment_files(auto, tmp_path / "in", tmp_path / "shared", MapOptions(), ranks=Ranks(0, 2))
    assert auto.told == [3 / 2, 1 / 2, 1 / 6, 0]  # the other process takes half of those that are left
    monkeypatch.setattr(compile_auto, "MEASURED", 0)
    monkeypatch.setattr(compile_auto, "WORTH", 0)
    auto = Told(Pixelwise(), spec_of(), compile="auto", compile_cache=folder)
    segment_files(auto, tmp_path / "in", tmp_path / "long", MapOptions())
    assert compiler == [(2, 1, 32, 32)]
    for name in ("short", "long"):
        for k in range(4):
            labels = [np.load(tmp_path / where / f"{k}.npz")["label"] for where in (name, "plain")]
            np.testing.assert_array_equal(*labels)
    segment_files(plain, tmp_path / "in", tmp_path / "again", MapOptions(), overwrite=False)
    with pytest.raises(InputError, match="--compile auto instead of false"):
        segment_files(plain, tmp_path / "in", tmp_path / "long", MapOptions(), overwrite=False)


def test_a_scene_is_compiled_for_between_its_windows(tmp_path, folder, compiler, monkeypatch):
    pytest.importorskip("rasterio")
    scene = write_scene(tmp_path / "scene.tif", noise(1, 96, 48))
    spec, options = spec_of(patch_size=[32, 32]), MapOptions()
    segment_files(Predictor(Pixelwise(), spec), scene, tmp_path / "plain.tif", options)
    monkeypatch.setattr(compile_auto, "MEASURED", 0)
    monkeypatch.setattr(compile_auto, "WORTH", 0)
    auto = Told(Pixelwise(), spec, compile="auto", compile_cache=folder)
    segment_files(auto, scene, tmp_path / "auto.tif", options)
    assert compiler == [(2, 1, 32, 32)]
    assert auto.told == pytest.approx([4, 3 / 2, 2 / 3, 1 / 4, 0, 0])
    assert (tmp_path / "auto.tif").read_bytes() == (tmp_path / "plain.tif").read_bytes()
