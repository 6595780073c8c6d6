"""The locked development tools: installable with the oldest Python that the Makefile accepts."""

import re
from importlib.metadata import distribution
from pathlib import Path

from packaging.specifiers import SpecifierSet

PROJECT = Path(__file__).resolve().parents[2]


def test_no_locked_package_needs_a_newer_python() -> None:
    """pip-compile locks for the Python that runs it; Debian 12, for example, has 3.11.2."""
    accepted = re.search(r"version_info < \((\d+), (\d+)\)", (PROJECT / "Makefile").read_text())
    assert accepted
    oldest = f"{accepted[1]}.{accepted[2]}.0"
    locked = re.findall(
        r"^([\w.-]+)==(\S+)", (PROJECT / "requirements/dev.txt").read_text(), re.MULTILINE
    )
    assert locked
    installed = {name: distribution(name) for name, _ in locked}
    # Otherwise the environment is older than the list: `make setup`.
    assert {name: found.version for name, found in installed.items()} == dict(locked)
    ranges = {name: found.metadata.get("Requires-Python", "") for name, found in installed.items()}
    assert not {
        name: needed for name, needed in ranges.items() if oldest not in SpecifierSet(needed)
    }
