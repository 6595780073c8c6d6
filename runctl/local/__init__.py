"""The local cloud: AWS in one process, with real process groups as instances.

Importing it raises SetupError on any system except Linux, which instances depend on.
"""

from runctl.platforms import require_linux

require_linux()
