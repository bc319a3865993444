"""Checkpoints tell nothing of the folders of the machine that trained them, and resume nevertheless."""

import torch

from mlla_seg.training.checkpoints import BestCheckpoint


def saved_in(folder):
    callback = BestCheckpoint()
    callback.dirpath = str(folder)
    callback.best_model_path = callback.kth_best_model_path = f"{folder}/best.ckpt"
    callback.best_k_models = {f"{folder}/best.ckpt": torch.tensor(0.5)}
    callback.best_model_score = callback.kth_value = torch.tensor(0.5)
    return callback.state_dict()


def test_a_checkpoint_holds_no_folder(tmp_path):
    state = saved_in(tmp_path)
    assert str(tmp_path) not in str(state)
    assert state["best_model_path"] == "best.ckpt"


def test_a_run_that_goes_on_knows_its_best_wherever_it_was_moved(tmp_path):
    state = saved_in("/elsewhere")
    (tmp_path / "best.ckpt").touch()
    callback = BestCheckpoint()
    callback.dirpath = str(tmp_path)
    callback.load_state_dict(state)
    assert callback.best_model_path == callback.kth_best_model_path == f"{tmp_path}/best.ckpt"
    assert callback.best_k_models == {f"{tmp_path}/best.ckpt": torch.tensor(0.5)}
    assert callback.best_model_score == 0.5


def test_another_run_starts_without_a_best(tmp_path):
    callback = BestCheckpoint()
    callback.dirpath = str(tmp_path)
    callback.load_state_dict(saved_in("/elsewhere"))
    assert callback.best_model_score is None
    assert callback.best_model_path == ""


def test_states_of_earlier_versions_are_loaded_as_before(tmp_path):
    callback = BestCheckpoint()
    callback.dirpath = str(tmp_path)
    state = saved_in(tmp_path) | {"dirpath": str(tmp_path), "best_model_path": f"{tmp_path}/best.ckpt"}
    callback.load_state_dict(state)
    assert callback.best_model_score == 0.5
    assert callback.best_model_path == f"{tmp_path}/best.ckpt"
