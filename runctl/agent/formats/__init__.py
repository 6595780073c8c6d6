"""What a file's own format says about whether it is complete."""

from runctl.agent.formats.judge import judge
from runctl.agent.formats.source import READ_BYTES, Source, Verdict

__all__ = ["READ_BYTES", "Source", "Verdict", "judge"]
