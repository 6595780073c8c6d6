"""Figures are formatted as people write them."""

from __future__ import annotations

import pytest

from runctl.report.wording import format_count


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 objects"), (1, "1 object"), (2, "2 objects"), (1200, "1,200 objects")],
)
def test_counts_have_the_noun_in_the_right_number(count: int, text: str) -> None:
    assert format_count(count, "object") == text
