"""Module and data module from Python with Lightning's ``Trainer``, without the command line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from lightning.pytorch import Trainer

from mlla_seg import SegmentationDataModule, SegmentationModule
from mlla_seg.data.dataspec import DataSpec
from mlla_seg.data.synthetic import write_synapse_layout
from mlla_seg.training.scoring import Scoring


@pytest.fixture
def data(phantom_root, tmp_path):
    return SegmentationDataModule(
        "phantom", str(phantom_root), batch_size=8, crop=[32, 32], num_workers=0, cache_dir=str(tmp_path / "cache")
    )


@pytest.mark.slow
def test_a_training_finds_what_no_background_or_untrained_network_does(tmp_path):
    """Without the command line; an empty prediction has Dice 0 for every organ."""
    write_synapse_layout(tmp_path / "phantom", range(1, 13), range(13, 15), slices=8, size=32)
    data = SegmentationDataModule(
        "phantom", str(tmp_path / "phantom"), 8, crop=[32, 32], num_workers=0, cache_dir=str(tmp_path / "cache")
    )
    scores = []
    for epochs in (0, 20):
        torch.manual_seed(0)
        module = SegmentationModule("mlla_nano", decoder_depths=[1, 1, 1], lr=3e-3, spec=data.spec)
        module.scoring = Scoring(distances=False)
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = Trainer(
            accelerator="cpu", max_epochs=epochs, limit_val_batches=0, enable_model_summary=False, **quiet
        )
        trainer.fit(module, data)
        scores += trainer.test(module, data, verbose=False)
    assert set(scores[1]) >= {f"test/iou_{name}" for name in module.spec.class_names}
    assert scores[0]["test/dice"] < 0.1
    assert scores[1]["test/dice"] > 0.4


@pytest.mark.parametrize("what", ["blocks", "all"])
def test_checkpoint_stages_train_to_the_same_weights(phantom_root, tmp_path, what):
    def weights(checkpoint_stages):
        torch.manual_seed(0)
        data = SegmentationDataModule(
            "phantom", str(phantom_root), 8, crop=[32, 32], num_workers=0, cache_dir=str(tmp_path / "cache")
        )
        module = SegmentationModule("mlla_test", spec=data.spec, checkpoint_stages=checkpoint_stages)
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        calls = []
        module.network.encoder.stages[0].blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
        quiet |= {"enable_model_summary": False, "limit_val_batches": 0}
        trainer = Trainer(accelerator="cpu", max_steps=3, precision="64-true", **quiet)
        trainer.fit(module, data)
        assert len(calls) == 3 * (1 if checkpoint_stages == "none" else 2)  # again in the backward pass
        module.network.encoder.stages[0].blocks[0]._forward_pre_hooks.clear()
        torch.jit.script(module.network.float())  # as plain a network as before
        return module.network.double().state_dict()

    torch.testing.assert_close(weights(what), weights("none"), atol=1e-9, rtol=1e-7)


def test_hyperparameters_hold_the_whole_spec(data):
    spec = replace(data.spec, mirrored=("rows",), context=1, resize=1.5, spacing_mm=(None, 1.0, 1.0), array_units=None)
    module = SegmentationModule("mlla_test", spec=spec)
    saved = json.loads(json.dumps(module.hparams["spec"]))  # plain types, as in a checkpoint
    assert DataSpec.from_dict(saved) == spec == module.network.spec
    assert SegmentationModule("mlla_test", spec=saved).spec == spec


def test_training_lowers_the_loss_on_one_batch(data):
    data.prepare_data()
    data.setup("fit")
    torch.manual_seed(0)
    batch = next(iter(data.train_dataloader()))
    module = SegmentationModule("mlla_test", drop_path_rate=0.0, spec=data.spec)
    optimizer = torch.optim.AdamW(module.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        loss = module.loss(module.network.segment(batch["image"]), batch["mask"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_dropped_paths_are_decided_by_seed_process_and_step_also_after_a_stop(data, tmp_path, monkeypatch):
    def fit(seed, rank=0, epochs=2, **options):
        torch.manual_seed(seed)
        module = SegmentationModule("mlla_test", drop_path_rate=0.5, spec=data.spec)
        monkeypatch.setattr(SegmentationModule, "global_rank", rank)
        masks = []
        step = module.training_step

        def watched(batch, batch_idx):
            masks.append(torch.empty(64).bernoulli_(0.5, generator=None).tolist())
            torch.rand(batch_idx)  # what else is drawn in a step does not reach the next
            return step(batch, batch_idx)

        module.training_step = watched
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        quiet |= {"enable_model_summary": False, "limit_val_batches": 0, "limit_train_batches": 2}
        trainer = Trainer(accelerator="cpu", max_epochs=epochs, **quiet)
        trainer.fit(module, data, weights_only=True, **options)
        return masks, trainer

    masks, _ = fit(0)
    assert len({tuple(mask) for mask in masks}) == len(masks) == 4
    assert fit(0)[0] == masks
    assert not [mask for mask in fit(1)[0] if mask in masks]
    assert not [mask for mask in fit(0, rank=1)[0] if mask in masks]
    first, trainer = fit(0, epochs=1)
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    rest, _ = fit(0, ckpt_path=tmp_path / "stopped.ckpt")
    assert first + rest == masks


def test_the_order_of_batches_is_that_of_the_seed_and_changes_by_epoch(data):
    data.prepare_data()
    data.setup("fit")
    loader = data.train_dataloader()
    first = list(loader.sampler)
    loader.sampler.set_epoch(1)
    assert sorted(first) == sorted(set(first))
    assert list(loader.sampler) != first
    assert list(data.train_dataloader().sampler) == first


def test_a_module_without_spec_is_refused():
    with pytest.raises(ValueError, match="needs the spec of its data"):
        SegmentationModule()


@pytest.mark.parametrize(
    ("spec", "spacing"),
    [({}, None), ({"context": 1}, None), ({"context": 2, "spacing_mm": (4.0, 0.5, 2.0)}, (2.0, 1.0, 1.0))],
    ids=["plain", "neighbours", "resampled"],
)
def test_a_slice_alone_is_the_slice_of_its_case(data, spec, spacing):
    torch.manual_seed(0)
    module = SegmentationModule("mlla_test", decoder_depths=[1, 1, 1], spec=replace(data.spec, **spec)).eval()
    image = 100 * torch.randn(6, 1, 32, 32)
    whole = module.predict_case(image, spacing)
    assert len(whole.unique()) > 2
    for position in range(6):
        assert torch.equal(module.predict_slice(image, position, spacing), whole[position])
