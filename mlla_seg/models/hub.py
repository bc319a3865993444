"""Saving segmenters to and loading them from the Hugging Face Hub, or a local folder with the same files.

A folder holds config.json, model.safetensors and a model card (README.md): the function that built the network and its
arguments, the weights and, if trained here, the spec of the data (classes, colours, channels, geometry).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import EvalResult, ModelCard, ModelCardData, PyTorchModelHubMixin, hf_hub_download
from torch import Tensor, nn, random

from mlla_seg._version import __version__
from mlla_seg.atomic import replace, unfinished_folder
from mlla_seg.checksums import with_checksums
from mlla_seg.data.dataspec import DataSpec, Normalisation
from mlla_seg.errors import InputError, followed_by
from mlla_seg.models.arguments import building, require_arguments
from mlla_seg.models.nearby import did_you_mean
from mlla_seg.models.weight_files import read_state_dict
from mlla_seg.texts import read_text
from mlla_seg.visible import in_markdown

WEIGHTS = "model.safetensors"
ANOTHER = (
    f"The folder is damaged, was changed, or needs another mlla_seg than {__version__}: copy or download it again."
)
CARD_MARK = "<!-- Written by mlla_seg, and again at each save unless this line is removed. -->"
BUILDERS: dict[str, Callable[..., nn.Module]] = {}
"""Functions that build networks, by name; filled in by :mod:`mlla_seg.models`, which knows all parts."""
BEFORE_0_2: dict[str, Any] = {"norm_outputs": False, "block": "mlla", "dims": 2, "strides": None}
"""Arguments of ``create_model`` that version 0.1 did not have, with the values that reproduce its networks."""
OPTIONS = ("map_location", "revision", "token", "cache_dir", "local_files_only", "force_download")
Network = TypeVar("Network", bound="HubMixin")


class HubMixin(PyTorchModelHubMixin, library_name="mlla_seg"):
    """``save_pretrained``, ``push_to_hub`` and ``from_pretrained`` for networks that record how they were built."""

    built_by: tuple[str, dict[str, Any]] | None = None
    """``create_model`` or ``MLLAUNet`` and its arguments in plain types; ``None`` for a network assembled by hand."""
    spec: DataSpec | None = None
    """Description of the training data; see :attr:`mlla_seg.SegmentationDataModule.spec`."""

    def save_pretrained(  # type: ignore[override]  # adds scores
        self,
        save_directory: str | Path,
        *,
        metrics: Mapping[str, float] | None = None,
        dataset: str | None = None,
        model_card_kwargs: Mapping[str, Any] | None = None,
        config: None = None,
    ) -> None:
        """Write config.json, model.safetensors and README.md (the model card); files appear only when complete.

        Args:
            save_directory: Folder to write to; created if needed, and files of an earlier save are replaced.
            metrics: Scores for the model card, such as ``{"dice": 0.87}``.
            dataset: Data set of these scores; defaults to the name of the card the network was trained with.
            model_card_kwargs: ``metrics`` and ``dataset`` as passed by the Hub's own functions.
            config: Ignored; the network provides its own.

        Raises:
            InputError: The network was assembled or changed by hand, so it cannot be rebuilt from its configuration.
        """
        assert isinstance(self, nn.Module)
        if self.built_by is None:
            raise InputError(
                "This network was assembled by hand, so it could not be rebuilt from a folder. "
                "Build it with create_model or MLLAUNet."
            )
        function, arguments = self.built_by
        content = {
            "build": function,
            "arguments": arguments,
            "spec": self.spec and self.spec.to_dict(),
            "mlla_seg_version": __version__,
        }
        config_json = json.loads(json.dumps(content, default=lambda number: number.tolist()))  # for NumPy numbers
        with random.fork_rng(devices=[]):  # saving during training must not affect it
            again = _build(config_json)
        if misfit := _misfit(self.state_dict(), again.state_dict()):
            raise InputError(
                f"This network is no longer what {function} built, so its folder could not be loaded: {misfit}. "
                f"Pass such changes to {function} instead, for example another num_classes."
            )
        card = model_card_kwargs or {"metrics": metrics, "dataset": dataset}
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        with unfinished_folder(folder / WEIGHTS) as unfinished:
            super().save_pretrained(unfinished, config=config_json, model_card_kwargs=dict(card))
            complete = with_checksums(config_json, unfinished, WEIGHTS)
            (unfinished / "config.json").write_text(json.dumps(complete, indent=2), "utf-8")
            finished = {path: folder / path.name for path in sorted(unfinished.iterdir())}
            replace({path: target for path, target in finished.items() if not _edited(target)})

    def push_to_hub(
        self, repo_id: str, *, metrics: Mapping[str, float] | None = None, dataset: str | None = None, **options: Any
    ) -> str:
        """Upload what :meth:`save_pretrained` writes to a Hub repository, which is created if needed.

        Args:
            repo_id: Repository, such as ``"user/liver"``.
            metrics: Scores for the model card.
            dataset: Data set of these scores.
            options: ``private``, ``token``, ``branch``, ``commit_message`` and others of ``huggingface_hub``.

        Returns:
            URL of the commit.
        """
        return super().push_to_hub(repo_id, model_card_kwargs={"metrics": metrics, "dataset": dataset}, **options)

    @classmethod
    def from_pretrained(cls: type[Network], pretrained_model_name_or_path: str | Path, **options: Any) -> Network:
        """Load a network from a folder or a Hub repository, in evaluation mode.

        Args:
            pretrained_model_name_or_path: Folder written by :meth:`save_pretrained`, or a Hub repository such as
                ``"user/liver"``.
            options: ``map_location``, and ``revision``, ``token``, ``cache_dir``, ``local_files_only``,
                ``force_download`` of ``huggingface_hub``.

        Raises:
            InputError: No such folder or repository, it cannot be loaded, it holds another class of network, or an
                option is unknown.
        """
        place = str(pretrained_model_name_or_path)
        if unknown := sorted(set(options) - set(OPTIONS)):
            raise InputError(
                f"from_pretrained has no option {', '.join(unknown)}; known: {', '.join(OPTIONS)}. It returns the "
                "network as saved; to change it, call create_model, then load_pretrained with this folder."
            )
        if place.count("/") != 1 and not Path(place).is_dir():
            raise InputError(f"{place}: no such folder; models on the Hub are named user/model.")
        try:
            network = super().from_pretrained(place, **options)
        except InputError:
            raise
        except Exception as error:  # no such folder, repository, connection, permission, file
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"{place}: is neither a complete folder of save_pretrained nor an accessible Hub model ({reason})."
            ) from error
        if not isinstance(network, cls):
            raise InputError(f"{place}: holds a {type(network).__name__}, not a {cls.__name__}.")
        return network

    @classmethod
    def _from_pretrained(  # type: ignore[override]  # passes download options through
        cls, *, model_id: str, config: dict[str, Any] | None = None, map_location: str = "cpu", **download: Any
    ) -> nn.Module:
        if not isinstance(config, dict) or not {"build", "arguments"} <= set(config):
            near = did_you_mean(Path(model_id))
            raise InputError(f"{model_id}: has no config.json written by save_pretrained of mlla_seg. {near}".rstrip())
        where = f"{model_id}/config.json"
        with followed_by(ANOTHER):
            spec = DataSpec.from_dict(config["spec"], where) if config.get("spec") else None
            with building(where):
                require_arguments(config["build"], config["arguments"], where)
                network = _build(config)
            if spec is not None:
                spec.require_network((network.in_channels, network.num_classes), where)
        folder = Path(model_id)
        path = folder / WEIGHTS if folder.is_dir() else hf_hub_download(model_id, WEIGHTS, **download)
        weights, _ = read_state_dict(path)
        if misfit := _misfit(weights, network.state_dict()):
            raise InputError(f"{model_id}: {WEIGHTS} does not fit the network of config.json: {misfit}.")
        network.load_state_dict(weights, strict=True)
        network.spec = spec
        return network.to(map_location).eval()

    def generate_model_card(self, metrics: Mapping[str, float] | None = None, dataset: str | None = None) -> ModelCard:
        """Return the model card: architecture, classes, channels, normalisation, scores and usage."""
        assert self.built_by is not None
        assert isinstance(self, nn.Module)
        return ModelCard(_model_card(self, self.built_by[1], self.spec, metrics or {}, dataset))


def _build(config: Mapping[str, Any]) -> Any:
    """Build the network of a config.json, with random weights."""
    build = BUILDERS[config["build"]]
    unsaid: dict[str, Any] = {}
    if config["build"] == "create_model":
        unsaid = {**BEFORE_0_2, "frame": (config.get("spec") or {}).get("window")}  # 0.1 had it in the spec only
    return build(**{**unsaid, **config["arguments"]})


def _edited(path: Path) -> bool:
    """Return whether a file is a model card that somebody has written by hand."""
    return path.suffix == ".md" and path.exists() and CARD_MARK not in read_text(path, "surrogateescape")


def _misfit(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Describe the first parameter that differs from the expected ones; empty if there is none."""
    for name in {**expected, **weights}:
        found, wanted = (tuple(w[name].shape) if name in w else "absent" for w in (weights, expected))
        if found != wanted:
            return f"{name} is {found}, expected {wanted}"
    return ""


def _model_card(
    network: nn.Module,
    arguments: Mapping[str, Any],
    spec: DataSpec | None,
    metrics: Mapping[str, float],
    dataset: str | None,
) -> str:
    title = f"{arguments.get('encoder', 'MLLA')} {arguments.get('decoder', 'mlla_unet')}"
    measured_on = dataset or (spec.name if spec else "unspecified data")
    facts = {
        "Network": title,
        "Parameters": f"{sum(p.numel() for p in network.parameters()):,}",
        "Channels": ", ".join(spec.channels) if spec else arguments["in_channels"],
        "Classes": arguments["num_classes"],
        "Normalisation": _normalisation(arguments, spec),
    }
    classes = []
    use = """from mlla_seg import Segmenter

segmenter = Segmenter.from_pretrained("this folder, or the model's name on the Hub")
logits = segmenter(image)  # (B, C, H, W) in raw units to (B, K, H, W)"""
    if spec:
        facts["Trained on"] = f"{spec.name}, {spec.modality}"
        if spec.context:
            facts["Channels"] += f", each of {2 * spec.context + 1} adjacent slices"
        classes = [(k, entry.name, list(entry.colour)) for k, entry in enumerate(spec.classes)]
        if spec.regions:
            facts["Classes"] = len(spec.classes)
            facts["Outputs"] = f"the regions {', '.join(spec.output_names)}, with a sigmoid each"
        use = """from mlla_seg import Predictor, Segmenter

predict = Predictor(Segmenter.from_pretrained("this folder, or the model's name on the Hub"))
labels = predict(image)  # (S, C, H, W) or (C, H, W) in raw units to (S, H, W) or (H, W)"""
    data = ModelCardData(
        library_name="mlla_seg",
        pipeline_tag="image-segmentation",
        tags=["semantic-segmentation", "mlla", "linear-attention"],
        model_name=title,
        eval_results=[
            EvalResult("image-segmentation", measured_on, measured_on, name, float(value))
            for name, value in metrics.items()
        ]
        or None,
    )
    sections = [
        f"---\n{data.to_yaml()}\n---\n{CARD_MARK}\n\n# {title}",
        "Semantic segmentation with MLLA (Mamba-Like Linear Attention, arXiv 2405.16605), built with mlla_seg.",
        _table(["", ""], facts.items()),
    ]
    if classes:
        sections.append("## Classes\n\n" + _table(["value", "class", "colour"], classes))
    if metrics:
        scores = [(name, f"{value:.4g}") for name, value in metrics.items()]
        sections.append(f"## Scores on {in_markdown(measured_on)}\n\n" + _table(["metric", "value"], scores))
    sections.append(f"## Use\n\n```python\n{use}\n```")
    return "\n\n".join(sections) + "\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    cells = ([in_markdown(str(cell)) for cell in row] for row in (header, ["---"] * len(header), *rows))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _normalisation(arguments: Mapping[str, Any], spec: DataSpec | None) -> str:
    options = json.loads(json.dumps(arguments["normalisation"] or {}, default=lambda number: number.tolist()))
    normalisation = spec.normalisation if spec else Normalisation.from_dict(options)
    words = normalisation.in_words(spec.channels if spec else [f"channel {k}" for k in range(arguments["in_channels"])])
    outside = "whole cases are standardised by Predictor, the rest is " if normalisation.per_case else ""
    return f"{words}; {outside}done in the network, which takes raw units"
