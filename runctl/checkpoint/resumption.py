"""Warnings about attempts that seem to have ignored the checkpoint that they were given."""

import re
from collections.abc import Collection, Iterable

from runctl.checkpoint.step_names import counter_in, is_state, number_in

REMEDY = "load the newest file of RUNCTL_CHECKPOINT_DIR at the start"
_MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
# What a program generates at each start: dates, times, ids, and numbers after such words.
_UNIQUE = tuple(
    (re.compile(pattern, re.IGNORECASE), stand_in)
    for pattern, stand_in in (
        (r"(?<!\d)(?:19|20)\d\d[-_.]?(?:0[1-9]|1[0-2])[-_.]?(?:0[1-9]|[12]\d|3[01])(?!\d)", "DATE"),
        (r"(?<!\d)\d{1,2}[-_.]\d{1,2}[-_.](?:19|20)\d\d(?!\d)", "DATE"),
        (rf"(?<![a-z])(?:{_MONTHS})[a-z]*[-_ ]?\d{{1,2}}(?!\d)", "DATE"),
        (r"(?<=DATE[t_\-. ])[0-2]\d[0-5]\d(?:[0-5]\d)?z?(?!\d)", "TIME"),
        (r"(?<!\d)[0-2]\d[-_:.h][0-5]\d(?:[-_:.m][0-5]\d)?s?(?!\d)", "TIME"),
        (r"(?<!\d)1[4-9]\d{8}(?:\d{3})?(?!\d)", "TIME"),
        (r"(?<![0-9a-z])(?=[a-z]*\d)(?=\d*[a-z])[0-9a-z]{8}(?![0-9a-z])", "ID"),
        (r"(?<![0-9a-f])(?=[a-f-]*\d)(?=[\d-]*[a-f])[0-9a-f-]{10,}(?![0-9a-z])", "ID"),
        (r"(?<![a-z])(version|run|exp|experiment|trial|train|attempt|job)[-_]?\d*$", r"\1N"),
    )
)


def not_resumed(attempt: int, *, given: int | None, first: int | None) -> str:
    """Return a warning if the first save's step is lower than the step that was given, or ""."""
    if given is None or first is None or first >= given:
        return ""
    return (
        f"attempt {attempt} was given step {given} but saved step {first}: it did not resume; "
        f"{REMEDY}"
    )


def new_folder(attempt: int, *, given: Collection[str], changed: Iterable[str]) -> str:
    """Return a warning if an attempt saves to a new folder next to those it was given, or "".

    `given` are the paths it was given, `changed` those that it wrote first. The folder's name is of
    a kind that a program generates at each start, like that of an existing folder.
    """
    existing = _folders_of(given)
    patterns: dict[str, list[str]] = {}
    for folder in sorted(existing):
        if (pattern := _pattern(folder)) != folder:
            patterns.setdefault(pattern, []).append(folder)
    for folder in sorted(_folders_of(changed) - existing) if patterns else ():
        before = patterns.get(_pattern(folder), [])
        # Several new folders: the program names its saves this way, not its starts.
        if len(before) == 1:
            return (
                f"attempt {attempt} was given {before[0]} but saves to the new folder {folder}: "
                "if it did not resume from there, let it save to a folder with a fixed name, or "
                f"{REMEDY}"
            )
    return ""


def _folders_of(paths: Iterable[str]) -> set[str]:
    """Return the folders that hold states, and their parents."""
    folders = {path.rpartition("/")[0] for path in paths if is_state(path)}
    parts = (folder.split("/") for folder in folders if folder)
    return {"/".join(names[: at + 1]) for names in parts for at in range(len(names))}


def _pattern(folder: str) -> str:
    """Return a folder's path with placeholders for what is unique in it; a step is not."""
    return "/".join(
        name if number_in(name) or counter_in(name) else _pattern_of_name(name)
        for name in folder.split("/")
    )


def _pattern_of_name(name: str) -> str:
    for unique, stand_in in _UNIQUE:
        name = unique.sub(stand_in, name)
    return name
