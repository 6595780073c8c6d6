"""Values, names and texts that often break programs."""

from __future__ import annotations

from hypothesis import strategies as st

NUMBERS = st.one_of(
    st.integers(-3, 40),
    st.integers(),
    st.floats(),
    st.sampled_from([2**31, 2**63 - 1, 2**63, 2**64, 10**400, -(10**400), 8 * 2**40, 0o7777]),
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)
NAMES = st.one_of(
    st.sampled_from(
        ["a", "b", "c", "link", "..", ".", "", " ", "\n", "\0", "é", "\udcc3\udca9", "\ud800", "²",
         "३", "a" * 255, "a" * 256, "é" * 127, "é" * 128, "con", "-rf", "~", "$HOME", "%s", "{0}",
         "\x1b[2J"]
    ),
    st.text(max_size=6),
)  # fmt: skip


def paths(outside: str) -> st.SearchStrategy[str]:
    """Return paths, mostly short ones, so that they collide; some lead outside."""
    plain = st.lists(st.sampled_from(["a", "b", "link"]), min_size=1, max_size=3).map("/".join)
    strange = st.lists(NAMES, max_size=4).map("/".join)
    deep = st.sampled_from(["a/" * 99 + "a", "a/" * 100 + "a", "a/" * 1500 + "a"])
    return st.one_of(
        plain,
        plain,
        strange,
        deep,
        st.sampled_from([outside, f"{outside}/victim", "../outside/victim"]),
    )
