"""What a file's own format says about whether it is complete."""

from runctl.checkpoint.formats.judge import judge
from runctl.checkpoint.formats.source import READ_BYTES, Source, Verdict

__all__ = ["READ_BYTES", "Source", "Verdict", "judge"]
