"""The security policy has an answer for every attacker."""

import re
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "SECURITY.md").read_text()


def test_every_attacker_has_an_answer():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 5
    assert all(re.search(r"defended|not:|kept from", row.split("|")[4]) for row in rows)
