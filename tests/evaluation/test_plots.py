import io

import matplotlib.image
import numpy as np
import pytest

from mlla_seg.data.formats.classes import ClassInfo
from mlla_seg.evaluation import plots

CLASSES = [ClassInfo("background", (0, 0, 0), 0), ClassInfo("roof", (230, 80, 80), 1)]


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, laid out as they are."""
    kept, save = [], plots.save_figure

    def keep(figure, output):
        figure.draw_without_rendering()
        kept.append(figure)
        save(figure, output)

    monkeypatch.setattr(plots, "save_figure", keep)
    return kept


@pytest.mark.parametrize("shape", [(32, 32), (96, 64), (20, 60)])
def test_titles_of_samples_lie_on_no_picture(tmp_path, figures, shape):
    samples = [
        {"image": np.random.default_rng(k).random((3, *shape)), "mask": np.ones(shape, int), "name": f"scene {k}"}
        for k in range(9)
    ]
    plots.plot_samples(samples, [0, 0, 0], CLASSES, 0, tmp_path / "a.png", "samples")
    axes = figures[0].axes
    pictures = [axis.get_window_extent() for axis in axes]
    for axis in axes:
        title = axis.title.get_window_extent()
        assert title.height > 10
        assert not any(title.overlaps(picture) for picture in pictures)


def test_samples_without_a_class_need_no_legend(tmp_path, figures):
    sample = {"image": np.zeros((1, 8, 8)), "mask": np.zeros((8, 8), int), "name": "empty"}
    plots.plot_samples([sample], [0, 0, 0], CLASSES, 0, tmp_path / "a.png", "samples")
    assert not figures[0].legends


def test_pixels_without_a_class_are_darkened_in_overlays():
    mask = np.zeros((20, 20), np.uint8)
    mask[:, 10:] = 255
    image = np.full((1, 20, 20), 9.0)
    image[0, 0, 0] = 0.0
    drawn = io.BytesIO()
    plots.plot_overlay(image, {"truth": mask}, CLASSES, drawn, window=(0, 10))
    drawn.seek(0)
    grey = matplotlib.image.imread(drawn)[..., 0]
    bright, dark = (np.isclose(grey, value, atol=0.01).sum() for value in (0.9, 0.9 * plots.DARKENED))
    assert dark > 1000
    assert 2 < bright / dark < 4  # all of the image and half of the other panel
