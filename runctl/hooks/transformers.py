"""The Hugging Face Trainer: save and stop on SIGTERM, save when asked, report, resume.

args = TrainingArguments(output_dir=str(training.checkpoint_dir), save_steps=500, ...)
trainer = Trainer(model, args, callbacks=[RunctlCallback()], ...)
trainer.train(resume_from_checkpoint=last_checkpoint())
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from runctl import training
from runctl.hooks.pytorch import any_rank, measure

_NAME = re.compile(r"checkpoint-(\d+)")


def last_checkpoint(output_dir: str | Path | None = None) -> str | None:
    """Return the newest whole checkpoint that a Trainer has saved, for `resume_from_checkpoint`.

    The Trainer writes a folder file by file, its state last: a folder without it is unfinished.
    """
    folder = training.checkpoint_dir if output_dir is None else Path(output_dir)
    entries = list(folder.iterdir()) if folder.is_dir() else []
    found = {int(match[1]): path for path in entries if (match := _NAME.fullmatch(path.name))}
    whole = (found[step] for step in sorted(found, reverse=True) if _is_whole(found[step], step))
    return next((str(path) for path in whole), None)


def _is_whole(path: Path, step: int) -> bool:
    try:
        state = json.loads((path / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(state, dict) and state.get("global_step") == step


class RunctlCallback(TrainerCallback):
    """Saves and stops after the step in which SIGTERM arrived, saves on request, reports the logs.

    It also saves every `every` seconds, in addition to `save_steps`. After `train()`,
    `training.should_stop()` says whether the training was stopped.
    """

    def __init__(self, every: float | None = None) -> None:
        self._every = every
        self._began = 0.0

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        """Begin to listen."""
        training.should_stop()
        if model is not None and args.world_size > 1:
            measure(model)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Decide what comes after this step."""
        self._began = time.monotonic()
        save, stop = any_rank(training.should_save(self._every), training.should_stop())
        if save:
            control.should_save = True
        if stop:
            training.stop()
            # Evaluation comes before saving, and may take longer than the time left.
            control.should_evaluate = False
            control.should_save = control.should_training_stop = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Report the save, which is complete; each machine has files of its own ranks."""
        training.saved(state.global_step, seconds=time.monotonic() - self._began)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Report what the Trainer logs."""
        if state.is_world_process_zero:
            training.report(state.global_step, **(logs or {}))
