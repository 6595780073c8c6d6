"""What is ready before a trainer starts."""

from dataclasses import dataclass
from pathlib import Path

from runctl.agent.prepare.container import ReadyContainer
from runctl.agent.runtime.trainer_user import TrainerUser
from runctl.checkpoint.restore import Fetched
from runctl.model.run import Run
from runctl.model.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything that is ready before the trainer starts.

    A program in a `container` does not use the `environment`. `user` is the one that programs run
    as, None for the agent's own.

    `run`, `restored` and `partial` are set last, once the token has arrived: the run as the ledger
    had it then, the whole checkpoint that is in place, and the folder with the files of an
    unfinished one. `subject` is the checkpoint of another run that is in place to be evaluated, and
    `outputs` a folder for its results, if it is one of several.
    """

    script: str
    environment: Path
    checkpoint: Path
    container: ReadyContainer | None = None
    user: TrainerUser | None = None
    run: Run | None = None
    restored: Fetched | None = None
    partial: Path | None = None
    subject: Subject | None = None
    outputs: Path | None = None
