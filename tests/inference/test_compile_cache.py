"""Code of compiled networks is kept: used again only for the same network, whole, and from a folder of one's own."""

from __future__ import annotations

import os
import time

import pytest
import torch

from compiled import IMAGE, make_package
from jobs import Pixelwise
from mlla_seg.errors import InputError
from mlla_seg.inference import compile_cache
from mlla_seg.inference.compile_cache import default_folder, package_name, remove_unused, require_private
from mlla_seg.inference.optimize import for_inference


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return make_package(tmp_path_factory)


@pytest.fixture
def folder(package, tmp_path):
    """A cache of its own with that package."""
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    (folder / package.name).write_bytes(package.read_bytes())
    return folder


def compiled(folder, network=None, image=IMAGE, **how):
    """Logits of a network that takes its code from a folder."""
    with torch.inference_mode():
        return for_inference(network or Pixelwise().eval(), compile=True, compile_cache=folder, **how)(image)


@pytest.fixture
def no_compiler(monkeypatch):
    """Compiling fails the test."""
    monkeypatch.setattr(compile_cache, "compile_to", lambda *_: pytest.fail("compiled again"))


@pytest.mark.usefixtures("no_compiler")
def test_a_second_process_does_not_compile(folder, capsys):
    with torch.inference_mode():
        torch.testing.assert_close(compiled(folder), Pixelwise()(IMAGE), atol=1e-5, rtol=0)
    assert "Using code that was compiled before for images of 32 x 32 pixels, 2 at a time: " in capsys.readouterr().err
    assert not list(folder.glob(".*"))  # neither locks nor unfinished files


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:1000])


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [damage, cut, empty])
def test_a_damaged_package_is_made_again(folder, package, harm, monkeypatch, capsys):
    path = folder / package.name
    harm(path)
    monkeypatch.setattr(compile_cache, "compile_to", lambda path, *_: path.write_bytes(package.read_bytes()))
    with torch.inference_mode():
        torch.testing.assert_close(compiled(folder), Pixelwise()(IMAGE), atol=1e-5, rtol=0)
    said = capsys.readouterr().err
    assert f"note: {path} is damaged, or not made for this network, so it is compiled again.\n" in said
    assert path.read_bytes() == package.read_bytes()


def test_code_of_another_network_is_never_used(folder, package, monkeypatch):
    """Not even under the name of this one, as after a change of the source of an encoder."""
    other = Pixelwise().eval()
    other.conv.weight.data[0, 0, 0, 0] += 0.1
    path = folder / package_name(for_inference(other), IMAGE)
    path.write_bytes(package.read_bytes())
    monkeypatch.setattr(compile_cache, "compile_to", lambda path, *_: path.write_bytes(package.read_bytes()))
    with pytest.raises(InputError, match="gives other logits when it is compiled here; run without --compile"):
        compiled(folder, other)
    assert not path.exists()


@torch.inference_mode()
def test_all_that_code_depends_on_is_in_its_name(monkeypatch):
    network, other, wide = Pixelwise(), Pixelwise(), Pixelwise(2)
    other.conv.bias.data[0] += 1e-6
    names = [package_name(network, IMAGE), package_name(other, IMAGE), package_name(wide, IMAGE)]
    names += [package_name(network, IMAGE[:1]), package_name(network, IMAGE[..., 1:])]
    with torch.autocast("cpu", torch.bfloat16):
        names.append(package_name(network, IMAGE))
    for target, value in (("processor", lambda: "another"), ("__version__", "another")):
        with monkeypatch.context() as patch:
            patch.setattr(compile_cache, target, value)
            names.append(package_name(network, IMAGE))
    for target, value in (("__version__", "another"), ("get_num_threads", lambda: 99)):
        with monkeypatch.context() as patch:
            patch.setattr(torch, target, value)
            names.append(package_name(network, IMAGE))
    assert len(set(names)) == len(names)
    assert package_name(Pixelwise(), IMAGE.clone()) == names[0]


@pytest.mark.parametrize("mode", [0o770, 0o707])
@pytest.mark.usefixtures("no_compiler")
def test_code_that_others_could_have_written_is_not_run(folder, mode):
    folder.chmod(mode)
    with pytest.raises(InputError, match=r"others can write to it, .* Run chmod go-w .*, or name another folder with"):
        compiled(folder)


@pytest.mark.usefixtures("no_compiler")
def test_a_folder_of_another_user_is_refused(folder, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(InputError, match=r"belongs to another user, .* Name another folder with --compile_cache\."):
        compiled(folder)


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/cache: compiled code cannot be kept here: Not a directory\. Name"):
        require_private(tmp_path / "file/cache")


def test_the_folder_is_that_of_the_user_and_private(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "mlla_seg/compiled"
    before = os.umask(0o002)  # of many systems, which lets the group write
    try:
        require_private(default_folder())
    finally:
        os.umask(before)
    assert default_folder().stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(default_folder()) == "/home/someone/.cache/mlla_seg/compiled"


def test_packages_that_nobody_uses_are_removed(tmp_path):
    names = ["old.pt2", "new.pt2", "old.txt"]
    for name in names:
        (tmp_path / name).write_text("")
        if name.startswith("old"):
            os.utime(tmp_path / name, (time.time() - 31 * 24 * 3600,) * 2)
    remove_unused(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.pt2", "old.txt"]


def test_a_cache_without_compiling_is_refused(cli, capsys):
    with pytest.raises(SystemExit):
        cli("predict", "--ckpt_path=a.ckpt", "--input=b", "--output=c", "--compile_cache=d")
    said = "--compile_cache is where --compile true, or auto, keeps its code: add it, or leave this out."
    assert said in capsys.readouterr().err
