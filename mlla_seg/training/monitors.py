"""Checks of what configured callbacks monitor, such as ``EarlyStopping``, before data are prepared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from mlla_seg.data.dataspec import DataSpec
from mlla_seg.errors import InputError, unknown

SCORES = ("dice", "iou")
"""Scores that are logged after each validation of a training, all of them better if higher."""
POOLED = "val/pooled_iou"
"""Score of images that are single slices."""
LOSS = "train/loss"
RATE = "lr-"
"""Begins the names of learning rates."""


def logged_names(spec: DataSpec, validated: bool) -> list[str]:
    """Return the names of what a training logs, apart from learning rates.

    Args:
        spec: Description of the data.
        validated: Whether there is a validation split.
    """
    if not validated:
        return [LOSS]
    means = [f"val/{score}" for score in SCORES]
    return [*means, POOLED, LOSS, *(f"{mean}_{name}" for mean in means for name in spec.output_names)]


def require_monitored(callbacks: Sequence[Callback], names: Sequence[str]) -> None:
    """Check that the callbacks of the options monitor what is logged, in the right direction.

    Callbacks of other packages may log more, so beside them unknown names are left to the first validation.

    Args:
        callbacks: Those of the options.
        names: What is logged, see :func:`logged_names`.

    Raises:
        InputError: Nothing of that name is logged, or ``mode`` takes the worst value for the best.
    """
    own = all(type(callback).__module__.startswith(("lightning.", "mlla_seg.")) for callback in callbacks)
    for kind, monitor, mode in _monitors(callbacks):
        if own and monitor not in names and not monitor.startswith(RATE):
            raise InputError(unknown(names, monitor, f"monitor of {kind}"))
        better = "min" if monitor == LOSS else "max" if monitor in names else mode
        if mode != better:
            raise InputError(
                f"{kind} monitors {monitor} with mode {mode}, but {'higher' if better == 'max' else 'lower'} is "
                f"better. Set its mode to {better}."
            )


def require_other_checkpoints(callbacks: Sequence[Callback], ours: Sequence[ModelCheckpoint]) -> None:
    """Check that no callback of the options keeps what ``best.ckpt`` or ``last.ckpt`` hold.

    Raises:
        InputError: Lightning cannot save the states of two such callbacks.
    """
    keys = {callback.state_key for callback in ours}
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.state_key.replace(POOLED, "val/dice") in keys:
            what = f"with monitor {callback.monitor}" if callback.monitor else "without a monitor"
            name = "best.ckpt" if callback.monitor else "last.ckpt"
            raise InputError(
                f"{type(callback).__name__} {what} keeps what {name} holds in every run. Leave it out of "
                "--trainer.callbacks, or give it another monitor or every_n_epochs."
            )


def _monitors(callbacks: Sequence[Callback]) -> Iterator[tuple[str, str, str]]:
    """Yield class, monitor and mode of the callbacks that have both."""
    for callback in callbacks:
        monitor, mode = getattr(callback, "monitor", None), getattr(callback, "mode", None)
        if isinstance(monitor, str) and isinstance(mode, str):
            yield type(callback).__name__, monitor, mode
