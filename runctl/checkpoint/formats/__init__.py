"""What a file's format says about whether the file is complete."""

from runctl.checkpoint.formats.judge import judge
from runctl.checkpoint.formats.source import MAX_READ_BYTES, Source, Verdict

__all__ = ["MAX_READ_BYTES", "Source", "Verdict", "judge"]
