"""Settings of pip as variables of uv, which does not read them itself."""

import ast
from collections.abc import Iterable

# uv's variable for each setting, and what separates several values.
_VARIABLES = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "constraint": ("UV_CONSTRAINT", " "),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "cert": ("SSL_CERT_FILE", " "),
    "timeout": ("UV_HTTP_TIMEOUT", " "),
    "default-timeout": ("UV_HTTP_TIMEOUT", " "),
}
# They change nothing about which packages are installed.
_IRRELEVANT = frozenset(
    {
        "break-system-packages", "cache-dir", "disable-pip-version-check", "no-cache-dir",
        "no-color", "no-input", "no-warn-script-location", "progress-bar", "quiet", "retries",
        "root-user-action", "verbose",
    }
)  # fmt: skip
_SECTIONS = frozenset({"global", "install"})


def uv_variables(settings: Iterable[str]) -> dict[str, str] | None:
    """Return the variables for uv, given the lines of `pip config list`.

    None if pip has a setting that uv lacks: then only pip does what is meant.
    """
    found: dict[str, str] = {}
    for line in settings:
        name, is_setting, shown = line.partition("=")
        section, _, key = name.strip().rpartition(".")
        if not is_setting or (section not in _SECTIONS and not section.startswith(":env:")):
            continue
        key = key.replace("_", "-")
        if key in _IRRELEVANT:
            continue
        if key not in _VARIABLES:
            return None
        variable, separator = _VARIABLES[key]
        try:
            value = str(ast.literal_eval(shown.strip()))
        except (SyntaxError, ValueError):
            return None
        found[variable] = separator.join(value.split())
    return found
