"""Files of weights in any wrapping: found where they are one, refused where they are several or no weights."""

from __future__ import annotations

import pytest
import torch

from mlla_seg import MLLA, load_pretrained
from mlla_seg.errors import InputError
from mlla_seg.models.mlla import SIZES

SIZE = {key: SIZES["mlla_test"][key] for key in ("embed_dim", "depths", "num_heads")}


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return MLLA(**SIZE, num_classes=7)


def saved(weights, tmp_path):
    torch.save(weights, tmp_path / "w.pth")
    return tmp_path / "w.pth"


@pytest.mark.parametrize("keys", [["net"], ["model_state_dict"], ["module"], ["a", "b", "params"], []])
def test_weights_are_found_under_any_key(classifier, tmp_path, keys):
    weights = {**classifier.state_dict(), "version": 3}
    for key in reversed(keys):
        moments = {"state": {0: {"exp_avg": torch.zeros(2, 2)}}}
        weights = {key: weights, "epoch": torch.tensor(3), "rng": torch.zeros(9), "optimizer": moments}
    model = MLLA(**SIZE, num_classes=7)
    report = load_pretrained(model, saved(weights, tmp_path))
    assert report.file_key == ".".join(keys)
    assert not report.missing
    torch.testing.assert_close(model.head.weight, classifier.head.weight)


def test_one_of_several_is_not_chosen_in_silence(classifier, tmp_path):
    weights = classifier.state_dict()
    path = saved({"student": weights, "teacher": weights}, tmp_path)
    with pytest.raises(InputError, match=r"w\.pth holds 2 state dicts, under 'student', 'teacher'"):
        load_pretrained(classifier, path)
    both = {f"{who}.{name}": value for who in ("student", "teacher") for name, value in weights.items()}
    with pytest.raises(InputError, match=r"has 2 MLLA encoders, student\.encoder\. and teacher\.encoder\."):
        load_pretrained(classifier, saved(both, tmp_path))
    pair = torch.nn.ModuleList([classifier, MLLA(**SIZE)])
    with pytest.raises(InputError, match=r"ModuleList has 2 MLLA encoders, .*one of its parts"):
        load_pretrained(pair, weights)


@pytest.mark.parametrize("content", [{"optimizer": {"state": {0: {"m": torch.zeros(2, 2)}}}}, [{}], 3, {}])
def test_what_holds_no_weights_is_said(classifier, tmp_path, content):
    with pytest.raises(InputError, match=r"w\.pth holds no state dict, but ('optimizer'|a list|a int|nothing)\."):
        load_pretrained(classifier, saved(content, tmp_path))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda value: value * torch.nan, "contain NaN or infinite values"),
        (lambda value: value.to(torch.int8), "of type int8, such as quantised weights"),
        (lambda value: value.to(torch.float8_e4m3fn), "of type float8_e4m3fn"),
        (lambda value: value.to(torch.complex64), "of type complex64"),
        (lambda value: value.to_sparse(), "is sparse"),
        (lambda value: value.to("meta"), "without values"),
    ],
)
def test_numbers_that_are_no_weights_are_refused(classifier, changed, message):
    weights = {
        name: changed(value) if name == "norm.weight" else value for name, value in classifier.state_dict().items()
    }
    before = classifier.norm.weight.clone()
    with pytest.raises(InputError, match=message):
        load_pretrained(classifier, weights)
    torch.testing.assert_close(classifier.norm.weight, before)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precisions_load(classifier, precision):
    weights = {name: value.to(precision) for name, value in classifier.state_dict().items()}
    assert not load_pretrained(MLLA(**SIZE, num_classes=7), weights).missing
