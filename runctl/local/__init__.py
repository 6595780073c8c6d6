"""The local cloud: an AWS in one process, whose instances are real process groups.

Importing it raises SetupError on any system but Linux, which is what instances are made of.
"""

from runctl.platforms import require_linux

require_linux()
