"""The user data of instances: a header with the deployment's names, then bootstrap.sh."""

import re
from collections.abc import Mapping

# EC2 accepts 16 KiB of user data. Such lines are also comments in the files that the script writes.
_COMMENT_LINE = re.compile(r"^[ \t]*#(?: .*)?\n", re.MULTILINE)


def user_data(exports: Mapping[str, str], bootstrap: str) -> str:
    """Return a script that exports `exports`, then runs `bootstrap`, without its comments."""
    header = "".join(f"export {name}='{value}'\n" for name, value in exports.items())
    return f"#!/bin/bash\n{header}\n{_COMMENT_LINE.sub('', bootstrap)}"
