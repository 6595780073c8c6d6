"""The options of a request that say what is saved, and when."""

from dataclasses import dataclass
from datetime import timedelta

from runctl.model import request_checks as checks
from runctl.model.request_fields import (
    Option,
    Syntax,
    an_object,
    text,
    whole_number,
)


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """How checkpoints are taken."""

    dir: str = text(
        "Where the trainer saves, relative to the project. Default: the folder that "
        "RUNCTL_CHECKPOINT_DIR names.",
        check=checks.check_checkpoint_dir,
        option=Option(
            "--checkpoint-dir",
            "Where the trainer saves (default: $RUNCTL_CHECKPOINT_DIR).",
            "DIR",
        ),
    )
    keep_last: int = whole_number(
        "Number of complete checkpoints to keep.",
        least=1,
        most=1000,
        default=3,
        option=Option("--keep-last", "Number of complete checkpoints to keep.", "N", Syntax.NUMBER),
    )
    grace_seconds: int = whole_number(
        "How long the trainer may take to save after SIGTERM, in seconds.",
        least=0,
        most=90,
        default=90,
        option=Option(
            "--grace-seconds",
            "How long the trainer may take to save after SIGTERM.",
            "N",
            Syntax.NUMBER,
        ),
    )
    interval: int = whole_number(
        "Seconds between the saves that runctl requests of the trainer's helper; 0 chooses by what "
        "a save costs and how often instances are reclaimed.",
        least=0,
        most=86400,
        default=0,
    )

    @property
    def fixed_interval(self) -> timedelta | None:
        """The interval that the user set; None to choose it by what saves cost."""
        return timedelta(seconds=self.interval) if self.interval else None


@dataclass(frozen=True, kw_only=True)
class SavingOptions:
    """What is saved, and when."""

    checkpoint: CheckpointOptions = an_object(
        "How checkpoints are taken.", holder=CheckpointOptions, is_setting=True
    )
