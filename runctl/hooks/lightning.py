"""PyTorch Lightning: save and stop on SIGTERM, save when asked, report what is logged, resume.

trainer = Trainer(callbacks=[RunctlCallback(every=300)], enable_checkpointing=False)
trainer.fit(model, loader, ckpt_path=last_checkpoint())
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from runctl import training
from runctl.hooks.pytorch import any_rank, measure, random_state, set_random_state

if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
    from pytorch_lightning import Callback, LightningModule, Trainer
else:
    from lightning.pytorch import Callback, LightningModule, Trainer


def last_checkpoint() -> str | None:
    """Return the newest checkpoint that the callback has saved, for `ckpt_path`."""
    found = training.restore()
    return None if found is None else str(found.path)


class RunctlCallback(Callback):
    """Saves after `every` seconds and on request; on SIGTERM it saves and ends the program.

    It does so between two batches after an optimizer step, or between two batches of a validation.
    `keep` checkpoints are kept. With a single process, the random states of Python, NumPy and
    PyTorch are saved, too, which Lightning does not save.
    """

    def __init__(self, every: float | None = 600.0, *, keep: int = 2) -> None:
        self._every = every
        self._keep = keep
        self._seen = self._saved = 0
        self._random: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Continue from the restored step."""
        self._seen = self._saved = trainer.global_step
        if trainer.world_size > 1:
            measure(pl_module)
        if self._random and trainer.world_size == 1:
            set_random_state(self._random)
        self._random = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_args: Any, **_kwargs: Any
    ) -> None:
        """Save and stop here, if it is time, and report."""
        if trainer.global_step == self._seen:
            return  # gradients are accumulating, and no checkpoint holds them
        self._seen = trainer.global_step
        if self._seen % trainer.log_every_n_steps == 0:
            self._report(trainer)
        self._save_or_stop(trainer)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_args: Any, **_kwargs: Any
    ) -> None:
        """Stop without waiting for the end of the validation."""
        self._save_or_stop(trainer, may_save=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the results of the validation."""
        if not trainer.sanity_checking:
            self._report(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the final state."""
        if trainer.global_step != self._saved:
            self._save(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the random states."""
        return random_state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Hold the random states until training starts; building the model uses random numbers."""
        self._random = state_dict

    def _save_or_stop(self, trainer: Trainer, *, may_save: bool = True) -> None:
        # Lightning's own handler sends to the other ranks from within the signal: in its place.
        training.listen(forward=False)
        # In this order: a stop that arrives in between must not save here and stop a step later.
        save = may_save and training.should_save(self._every)
        save, stop = any_rank(save, training.should_stop())
        if (save or stop) and trainer.global_step != self._saved:
            self._save(trainer)
        if stop:
            sys.exit(0)

    def _save(self, trainer: Trainer) -> None:
        """Save with all ranks: a strategy may write from each of them, to one path."""

        def write(path: Path | None) -> None:
            trainer.save_checkpoint(trainer.strategy.broadcast(path), weights_only=False)

        self._saved = trainer.global_step
        if trainer.is_global_zero:
            training.save(write, self._saved, suffix=".ckpt", keep=self._keep)
        else:
            write(None)
            training.save(write, self._saved)  # only notes when the last save was

    def _report(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            training.report(
                trainer.global_step, epoch=trainer.current_epoch, **trainer.callback_metrics
            )
