"""Fragments of a line are marked, and joined whatever comes between them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runctl.model.log_fragments import (
    Fragment,
    Joiner,
    divide,
    marked,
    read_fragment,
    whole_characters,
)

TEXTS = st.text(alphabet="a é€😀[]:", max_size=60)


@given(TEXTS, st.integers(4, 40))
def test_text_is_divided_between_characters(text: str, limit: int) -> None:
    parts = divide(text, limit)
    assert "".join(parts) == text
    assert all(len(part.encode()) <= limit for part in parts)


@given(st.text(max_size=20), st.integers(0, 80))
def test_bytes_are_cut_before_an_unfinished_character(text: str, cut: int) -> None:
    content = text.encode()[:cut]
    whole = content[: whole_characters(content)]
    assert text.startswith(whole.decode())
    assert len(content) - len(whole) <= 3


def test_bytes_of_another_encoding_hold_back_three_at_most() -> None:
    assert whole_characters("été".encode("latin-1")) == 2  # perhaps the first of three
    assert whole_characters(b"\x80" * 10) == 10
    assert whole_characters(b"") == 0


@given(TEXTS, st.booleans(), st.booleans())
def test_marked_fragment_is_read_back(text: str, is_first: bool, is_last: bool) -> None:
    key = "" if is_first and is_last else "stdout:12"
    fragment = Fragment(text=text or "x", key=key, is_first=is_first, is_last=is_last)
    assert read_fragment(marked(fragment)) == fragment


def test_empty_line_has_a_byte() -> None:
    assert marked(Fragment(text="")) == " "


def test_fragments_are_joined_whatever_comes_between_them() -> None:
    def fragment(text: str, key: str, is_first: bool = False, is_last: bool = False) -> str:
        return marked(Fragment(text=text, key=key, is_first=is_first, is_last=is_last))

    joiner: Joiner[int] = Joiner()
    messages = [
        fragment("a", "out:0", is_first=True),
        "a line",
        fragment("x", "err:0", is_first=True),
        fragment("b", "out:0"),
        fragment("y", "err:0", is_last=True),
        fragment("", "out:0", is_last=True),
        fragment("the end of what is too old to be read", "out:9", is_last=True),
        fragment("the beginning of what is not over", "out:20", is_first=True),
    ]
    found = [joiner.join(number, message) for number, message in enumerate(messages)]
    assert [line for line in found if line] == [
        (1, "a line"),
        (2, "xy"),
        (0, "ab"),
        (6, "…the end of what is too old to be read"),
    ]
    assert list(joiner.take_unfinished()) == [(7, "the beginning of what is not over")]
    assert list(joiner.take_unfinished()) == []
