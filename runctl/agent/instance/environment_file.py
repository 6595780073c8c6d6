"""Environment files as systemd reads them: a value can neither end its line nor add another one."""

import re
from collections.abc import Mapping

from runctl.model.errors import RequestError

# Between double quotes a backslash escapes these characters. Before any other it is literal.
_SPECIAL = re.compile(r'["\\`$]')
# systemd refuses values with control characters, and text that is not UTF-8.
_REFUSED = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def write_environment(values: Mapping[str, str]) -> str:
    """Return the lines of an environment file; RequestError for a value that it cannot hold."""
    for name, value in values.items():
        if _REFUSED.search(value):
            raise RequestError(
                f"{name}: {value!r} has a control character, or is not UTF-8 text; rename it"
            )
    return "".join(f'{name}="{_SPECIAL.sub(_escaped, value)}"\n' for name, value in values.items())


def _escaped(match: re.Match[str]) -> str:
    return f"\\{match[0]}"
