"""`requires-python`, as far as it can be judged without the instance."""

import re

_CLAUSE = re.compile(r"\s*(~=|===|==|!=|<=|>=|<|>)\s*v?(\d+(?:\.\d+)*)(\.\*)?([a-z0-9.+-]*)\s*")
# The versions that instances can have: the agent needs 3.10, and a later Python than today's is not
# a mistake.
MIN_PYTHON = (3, 10)
_MAX_MINOR = 30
_MAX_PATCHES = 30


def is_specifier(text: str) -> bool:
    """Whether `text` is a version specifier (PEP 440); the empty one allows everything."""
    clauses = [clause for clause in text.split(",") if clause.strip()]
    return all(_CLAUSE.fullmatch(clause) for clause in clauses)


def allows_any(text: str) -> bool:
    """Whether some Python that an instance may have satisfies the specifier."""
    return any(
        allows(text, (3, minor, patch))
        for minor in range(MIN_PYTHON[1], _MAX_MINOR)
        for patch in range(_MAX_PATCHES)
    )


def allows(text: str, version: tuple[int, int, int]) -> bool:
    """Whether a release satisfies every clause; what cannot be judged here counts as satisfied."""
    return all(_satisfies(clause, version) for clause in text.split(",") if clause.strip())


def _satisfies(clause: str, version: tuple[int, int, int]) -> bool:
    match = _CLAUSE.fullmatch(clause)
    if match is None or match[4]:
        return True
    operator, star = match[1], bool(match[3])
    bound = [int(part) for part in match[2].split(".")]
    prefix = list(version[: len(bound)]) == bound[: len(version)]
    padded = tuple([*bound, 0, 0, 0][:3])
    if operator in {"==", "==="}:
        return prefix if star else version == padded
    if operator == "!=":
        return not prefix if star else version != padded
    if operator == "~=":
        return version >= padded and list(version[: len(bound) - 1]) == bound[:-1]
    return {
        "<=": version <= padded,
        ">=": version >= padded,
        "<": version < padded,
        ">": version > padded,
    }[operator]
