"""Loggers of the run folder: one for ``metrics.csv``, which a resumed run continues, and one that writes nothing."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from mlla_seg.atomic import renamed_when_done


class Curve(ExperimentWriter):
    """Rows of ``metrics.csv``, which is replaced as a whole at each save.

    Lightning's writer deletes the file of an earlier run, and writes it anew in place when a column is added.
    """

    def keep(self, rows: int) -> None:
        """Continue the existing file after its first ``rows`` rows; later ones belong to steps that are repeated."""
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(newline="") as file:
                self.metrics = [dict(row) for row in csv.DictReader(file)][:rows]

    def save(self) -> None:
        if not self.metrics:
            return
        columns = sorted({column for row in self.metrics for column in row})
        with renamed_when_done(Path(self.metrics_file_path)) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=columns, restval="")
            writer.writeheader()
            writer.writerows(self.metrics)

    def _check_log_dir_exists(self) -> None:
        """Keep what is there; a run that does not continue it replaces it with its first row."""


class RunLogger(CSVLogger):
    """Lightning's ``CSVLogger``, except that a resumed run continues ``metrics.csv``; configs may name either."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Curve:
        if self._experiment is None:
            self._experiment = Curve(self.log_dir)
        return self._experiment  # type: ignore[return-value]


class Unlogged(RunLogger):
    """Keeps a run folder and logs nothing; ``--trainer.logger false``."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Leave them out."""

    def log_hyperparams(self, params: Any = None) -> None:
        """Leave them out: ``config.yaml`` has them."""

    def save(self) -> None:
        """Write nothing."""
