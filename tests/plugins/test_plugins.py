"""Common to all plug-ins: one encoder, one call to load weights, and registration only on import."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import warnings
from itertools import permutations

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from monai.networks.nets import FlexibleUNet
from safetensors.torch import save_file
from timm import set_scriptable
from timm.layers import get_notrace_functions, get_notrace_modules
from timm.utils.onnx import onnx_export
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import mlla_seg.plugins.monai
import mlla_seg.plugins.smp
import mlla_seg.plugins.timm
from forks import apart, forget
from mlla_seg import MLLA, MLLAUNet, create_model, load_pretrained
from mlla_seg.models.mlla import SIZES, MapNorm, MLLAEncoder

NAME = "mlla_test"
SIZE = {key: SIZES[NAME][key] for key in ("embed_dim", "depths", "num_heads")}
# How each is built, and how its maps at strides 2 to 32 are had; MLLA-UNet's skips are other maps, but for the last.
DENSE = {"ours", "smp", "smp through timm", "timm features", "monai"}  # have a LayerNorm on each map
HOLDERS = {
    "ours": (lambda: create_model(NAME, "unet"), lambda m, x: m.encoder(x)),
    "mlla_unet": (lambda: MLLAUNet(**SIZE), lambda m, x: m.encoder(x)[-1:]),
    "classifier": (lambda: MLLA(**SIZE), lambda m, x: m.encoder(x)),
    "smp": (lambda: smp.Unet(NAME, encoder_weights=None), lambda m, x: m.encoder(x)[1:]),
    "smp through timm": (lambda: smp.Unet(f"tu-{NAME}", encoder_weights=None), lambda m, x: m.encoder(x)[1:]),
    "timm": (lambda: timm.create_model(NAME), lambda m, x: m.forward_intermediates(x, intermediates_only=True)),
    "timm features": (lambda: timm.create_model(NAME, features_only=True), lambda m, x: m(x)),
    "monai": (lambda: FlexibleUNet(3, 2, NAME), lambda m, x: m.encoder(x)),
}


def encoder_of(model):
    (encoder,) = (module for module in model.modules() if isinstance(module, MLLAEncoder))
    return encoder


@pytest.mark.parametrize("name", HOLDERS)
def test_maps_for_decoders_have_a_norm_each(name):
    norms = encoder_of(HOLDERS[name][0]()).norms
    assert [isinstance(norm, MapNorm) for norm in norms] == [name in DENSE] * 4


@pytest.mark.parametrize(("source", "target"), permutations(HOLDERS, 2))
def test_weights_of_one_give_the_same_features_in_another(source, target):
    torch.manual_seed(0)
    (build_source, maps_of_source), (build_target, maps_of_target) = HOLDERS[source], HOLDERS[target]
    theirs, ours = build_source().eval(), build_target().eval()
    for norm in encoder_of(theirs).norms.parameters():
        torch.nn.init.normal_(norm)
    load_pretrained(ours, theirs.state_dict())
    if not {source, target} <= DENSE:
        for model in (theirs, ours):
            encoder_of(model).norms = torch.nn.ModuleList(torch.nn.Identity() for _ in range(4))
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected, found = maps_of_source(theirs, x), maps_of_target(ours, x)
    for a, b in zip(reversed(found), reversed(expected), strict=False):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_dilated_features_are_the_same_too():
    torch.manual_seed(0)
    ours = create_model(NAME, "deeplabv3plus").eval()
    theirs = smp.DeepLabV3Plus(NAME, encoder_weights=None).eval()
    through_timm = timm.create_model(NAME, features_only=True, output_stride=16).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = ours.encoder(x)
        for model, maps in ((theirs, lambda: theirs.encoder(x)[1:]), (through_timm, lambda: through_timm(x))):
            load_pretrained(model, ours.state_dict())
            for i in (1, 2):
                encoder_of(model).norms[i] = torch.nn.Identity()  # ours has none where its decoder does not read
            for a, b in zip(maps(), expected, strict=True):
                torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_a_head_comes_along_where_it_fits():
    torch.manual_seed(0)
    classifier, model = MLLA(**SIZE, num_classes=4).eval(), timm.create_model(NAME, num_classes=4).eval()
    report = load_pretrained(model, classifier.state_dict())
    assert not (report.missing or report.left_out or report.adapted)
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model(x), classifier(x), atol=1e-5, rtol=0)


def test_the_authors_file_loads_everywhere(golden):
    """Parameter names recorded from the authors' network; tests/models/test_mlla.py compares its outputs."""
    from safetensors.torch import load_file

    tensors = load_file(golden / "mlla_unet.safetensors")
    weights = {name[3:]: value for name, value in tensors.items() if name.startswith("sd.")}
    own = {"embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8)}
    smp.encoders.encoders["recorded"] = {
        "encoder": mlla_seg.plugins.smp.SmpEncoder,
        "pretrained_settings": {},
        "params": own,
    }
    model = smp.Unet("recorded", encoder_weights=None).eval()
    report = load_pretrained(model, weights)
    assert {name[:19] for name in report.missing if name.startswith("encoder")} == {"encoder.mlla.norms."}
    encoder_of(model).norms = torch.nn.ModuleList(torch.nn.Identity() for _ in range(4))
    with torch.no_grad():
        last = model.encoder(tensors["input"])[-1]
        bottleneck = MLLAUNet(**own, decoder_depths=(2, 1, 1)).eval()
        load_pretrained(bottleneck, weights)
        found = bottleneck.decoder.norm(last.movedim(1, -1)).flatten(1, 2)
    torch.testing.assert_close(found, tensors["bottleneck"], atol=1e-4, rtol=0)
    del smp.encoders.encoders["recorded"]


def test_a_file_saved_by_one_library_loads_in_another(tmp_path):
    torch.manual_seed(0)
    trained = smp.Unet(NAME, encoder_weights=None, in_channels=4)
    save_file(trained.state_dict(), tmp_path / "unet.safetensors")
    model = timm.create_model(NAME, in_chans=1, num_classes=3)
    report = load_pretrained(model, tmp_path / "unet.safetensors")
    assert report.adapted == ["encoder.stem.conv1.0.weight"]
    assert set(report.missing) == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    torch.testing.assert_close(
        model.encoder.stages[2].state_dict(), trained.encoder.mlla.stages[2].state_dict(), atol=0, rtol=0
    )


LIBRARIES = {
    "smp": "segmentation_models_pytorch",
    "timm": "timm",
    "monai": "monai",
    "torchgeo": "torchgeo",
    "terratorch": "terratorch",
}


def test_networks_of_our_own_load_none_of_the_libraries_and_register_nothing():
    code = (
        "import sys, mlla_seg; from mlla_seg import MLLA, MLLAUNet, SegmentationModule, Predictor, create_model;"
        f"create_model('mlla_test'); print([m for m in {list(LIBRARIES.values())} if m in sys.modules]);"
        "import timm, segmentation_models_pytorch as smp; from monai.networks.nets import FLEXUNET_BACKBONE;"
        "print('mlla_tiny' in smp.encoders.encoders, timm.is_model('mlla_tiny'),"
        "'mlla_tiny' in FLEXUNET_BACKBONE.register_dict)"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    said = subprocess.run(command, capture_output=True, text=True).stdout
    assert said.splitlines() == ["[]", "False False False"]


def forget_all():
    for package in ("mlla_seg", *LIBRARIES.values()):
        forget(package)


def said_without(library, plugin):
    """The last line of the error of importing a plugin where a library is missing."""

    def first_import():
        forget_all()
        if library in ("torchgeo", "terratorch"):
            find = importlib.util.find_spec
            importlib.util.find_spec = lambda name, *more: None if name == library else find(name, *more)
        else:
            sys.modules[library] = None
        importlib.import_module(f"mlla_seg.plugins.{plugin}")

    return apart(first_import).stderr.splitlines()[-1]


@pytest.mark.parametrize("plugin", LIBRARIES)
def test_a_missing_library_is_answered_with_its_extra(plugin):
    library = LIBRARIES[plugin]
    answer = said_without(library, plugin)
    assert answer == f"ImportError: mlla_seg.plugins.{plugin} needs {library}: pip install 'mlla_seg[{plugin}]'"


def test_the_library_that_is_missing_is_the_one_named():
    pytest.importorskip("torchgeo", reason="pip install 'mlla_seg[torchgeo]'")
    answer = said_without("timm", "torchgeo")
    assert answer == "ImportError: mlla_seg.plugins.smp needs timm: pip install 'mlla_seg[smp]'"


@pytest.mark.parametrize("step", [1, -1])
def test_every_order_of_imports_registers_once(step):
    own_smp, own_timm = "mlla_seg.plugins.smp", "mlla_seg.plugins.timm"
    names = ["timm", "segmentation_models_pytorch", own_smp, own_timm, own_smp]

    def first_imports():
        warnings.simplefilter("error", UserWarning)
        forget_all()
        found = {name: importlib.import_module(name) for name in names[::step]}
        importlib.reload(found[own_smp])
        importlib.reload(found[own_timm])
        for name in ("mlla_test", "tu-mlla_test"):
            found["segmentation_models_pytorch"].Unet(name, encoder_weights=None)
        print(len(found["timm"].list_models("mlla_tiny")))

    done = apart(first_imports)
    assert done.stdout == "1\n", done.stderr


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
@pytest.mark.parametrize("name", ["classifier", "smp", "smp through timm", "timm", "timm features"])
def test_graphs_of_fx_script(name):
    """As timm's tests and torchvision's ``create_feature_extractor`` do; MONAI's own annotations do not script."""
    torch.manual_seed(0)
    with set_scriptable(True):
        model = HOLDERS[name][0]().eval()
    how = {"leaf_modules": list(get_notrace_modules()), "autowrap_functions": list(get_notrace_functions())}
    last = get_graph_node_names(model, tracer_kwargs=how)[1][-1]
    scripted = torch.jit.script(create_feature_extractor(model, [last], tracer_kwargs=how))
    for shape in ((1, 3, 64, 96), (2, 3, 128, 64)):
        x = torch.randn(shape)
        with torch.no_grad():
            expected = model(x)
            torch.testing.assert_close(scripted(x)[last], expected if torch.is_tensor(expected) else expected[-1])


def by_timm(model, path):
    """Export as timm's script ``onnx_export.py`` does: the older exporter, dynamic sizes."""
    onnx_export(model, path, example_input=torch.randn(2, 3, 64, 96), dynamic_size=True, use_dynamo=False)


def by_torch(model, path):
    axes = {"x": {0: "batch", 2: "height", 3: "width"}}
    torch.onnx.export(
        model, (torch.randn(2, 3, 64, 96),), path, dynamo=False, input_names=["x"], dynamic_axes=axes, opset_version=17
    )


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    ("export", "name"),
    [(by_timm, "timm"), *((by_torch, name) for name in HOLDERS)],
)
def test_the_older_onnx_exporter_writes_valid_files(export, name, tmp_path):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model = HOLDERS[name][0]().eval()
    export(model, path := str(tmp_path / "model.onnx"))
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for shape in ((2, 3, 64, 96), (1, 3, 96, 128), (1, 3, 32, 64)):
        x = torch.randn(shape)
        with torch.no_grad():
            expected = model(x)
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        for a, b in zip(found, [expected] if torch.is_tensor(expected) else expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(a), b, atol=1e-4, rtol=0)
