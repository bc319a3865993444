"""Networks of the benchmark: a segmenter run in several ways, and common alternatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mlla_seg.benchmark.definition import definitional
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.errors import InputError, lookup
from mlla_seg.inference.optimize import PRECISIONS, for_inference
from mlla_seg.models import DECODERS, create_model
from mlla_seg.models.recompute import set_checkpointing

Step = Callable[[Tensor], Any]
"""Function of images ``(B, 3, H, W)`` that is timed."""


def _swin(classes: int) -> nn.Module:
    return _smp_unet("tu-swin_tiny_patch4_window7_224", classes, strict_img_size=False)


def _smp_unet(encoder: str, classes: int, **more: Any) -> nn.Module:
    import segmentation_models_pytorch as smp

    return smp.Unet(encoder, encoder_weights=None, classes=classes, **more)


def _dynunet(classes: int) -> nn.Module:
    from monai.networks.nets import DynUNet

    return DynUNet(2, 3, classes, [3] * 6, [1, 2, 2, 2, 2, 2], [2] * 5, filters=[32, 64, 128, 256, 512, 512])


PEERS: dict[str, Callable[[int], nn.Module]] = {
    "smp Unet-ResNet34": lambda classes: _smp_unet("resnet34", classes),
    "smp Unet-ConvNeXt-T": lambda classes: _smp_unet("tu-convnext_tiny", classes),
    "smp Unet-Swin-T": _swin,
    "MONAI DynUNet": _dynunet,
}
"""Builders of networks for RGB images, by number of classes; DynUNet has the widths of nnU-Net in 2D."""


CLASSES = 9
"""Number of classes of all networks, as in Synapse."""


@dataclass(frozen=True)
class Contestant:
    """A network run in a certain way.

    Args:
        name: Name in tables.
        precision: A name in ``PRECISIONS``.
        run: Function that is timed.
        network: The network, to measure its memory and operations; None for engines and compiled networks.
    """

    name: str
    precision: str
    run: Step
    network: nn.Module | None = None


def our_network(encoder: str, decoder: str) -> nn.Module:
    """Return a segmenter for RGB images with random weights."""
    lookup(DECODERS, decoder, "decoder")
    torch.manual_seed(0)
    return create_model(encoder, decoder, num_classes=CLASSES)


def inference(
    encoder: str, decoder: str, precisions: Sequence[str], device: str, peers: bool, compiled: bool
) -> list[Contestant]:
    """Return contestants for inference; the first is the reference implementation in the first precision."""
    network = our_network(encoder, decoder).to(device).eval()
    others = {name: build(CLASSES).to(device).eval() for name, build in PEERS.items()} if peers else {}
    published = definitional(network)
    contestants = []
    for precision in precisions:
        fast = for_inference(network, device, precision)  # handles its precision itself
        ways = {"definition": published, "plain": network, "ours": fast, **others}
        for name, module in ways.items():
            run = _inference(module, "fp32" if module is fast else precision)
            contestants.append(Contestant(name, precision, run, module))
        if compiled:
            contestants.append(Contestant("ours, compiled", precision, _compiled(network, device, precision)))
    return contestants


def engines(encoder: str, decoder: str, precisions: Sequence[str], folder: Path) -> list[Contestant]:
    """Return contestants for the exported network in onnxruntime and OpenVINO on CPU.

    Raises:
        InputError: A package of the extra ``export`` is missing.
    """
    from mlla_seg.export.exportable import Job
    from mlla_seg.export.onnx import write_onnx
    from mlla_seg.export.openvino import write_openvino
    from mlla_seg.runtime.engines import open_engine

    classes = [f"class {k}" for k in range(CLASSES)]
    job = Job(
        our_network(encoder, decoder).eval(),
        DataSpec.from_dict({"channels": ["red", "green", "blue"], "classes": classes}),
    )
    try:
        write_onnx(job, folder / "m.onnx")
        write_openvino(job, folder / "m.xml")
    except ModuleNotFoundError as error:
        raise InputError(f"--engines needs {error.name}: pip install 'mlla_seg[export]'") from error
    ways = [("onnxruntime", "m.onnx", "fp32"), ("OpenVINO", "m.xml", "fp32"), ("OpenVINO", "m.xml", "bf16")]
    contestants = []
    for name, file, precision in ways:
        if precision in precisions:
            engine, _ = open_engine(folder / file, "cpu", torch.get_num_threads(), precision)
            contestants.append(Contestant(name, precision, _engine(engine)))
    return contestants


def training(
    encoder: str, decoder: str, precisions: Sequence[str], device: str, peers: bool, compiled: bool
) -> list[Contestant]:
    """Return contestants for a training step with AdamW; the first is the reference implementation."""
    networks: dict[str, nn.Module] = {"definition": definitional(our_network(encoder, decoder))}
    for name, what in (("ours", "none"), ("ours, blocks again", "blocks"), ("ours, all again", "all")):
        networks[name] = our_network(encoder, decoder)
        set_checkpointing(networks[name], what)
    if peers:
        networks |= {name: build(CLASSES) for name, build in PEERS.items()}
    contestants = []
    for precision in precisions:
        for name, network in networks.items():
            network.to(device).train()
            contestants.append(Contestant(name, precision, _training(network, network, precision), network))
        if compiled:
            module = torch.compile(networks["ours"])
            step = _training(module, networks["ours"], precision)
            contestants.append(Contestant("compiled", precision, step, networks["ours"]))
    return contestants


def autocast(device: str, precision: str) -> torch.autocast:
    """Return the autocast context of a precision."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device, dtype or torch.bfloat16, enabled=dtype is not None)


def _inference(module: Callable[[Tensor], Tensor], precision: str) -> Step:
    def run(image: Tensor) -> Tensor:
        with torch.inference_mode(), autocast(image.device.type, precision):
            return module(image)

    return run


def _compiled(network: nn.Module, device: str, precision: str) -> Step:
    """Return a step that compiles the network again for every image shape."""
    latest: dict[tuple[int, ...], Step] = {}

    def run(image: Tensor) -> Tensor:
        shape = tuple(image.shape)
        if shape not in latest:
            latest.clear()
            latest[shape] = _inference(for_inference(network, device, precision, compile=True), "fp32")
        return latest[shape](image)

    return run


def _engine(engine: Callable[[Any], Any]) -> Step:
    return lambda image: engine(image.numpy())


def _training(module: Callable[[Tensor], Tensor], network: nn.Module, precision: str) -> Step:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5)

    def run(image: Tensor) -> None:
        with autocast(image.device.type, precision):
            loss = module(image).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run
