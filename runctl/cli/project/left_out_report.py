"""The report on left-out files: a few lines, and a warning where the program names a file."""

import os
import posixpath
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from runctl.cli.project.ignore import RUNCTL_IGNORE
from runctl.cli.project.left_out import MAX_IN_NOTE, MAX_SHOWN, Group, escaped, groups_of
from runctl.cli.project.scan import Project

if TYPE_CHECKING:
    from runctl.cli.display.output import Output

_MAX_TEXT_BYTES = 1_000_000
_MAX_TEXTS = 20
_TEXTS = (".py", ".sh", ".yaml", ".yml", ".json", ".toml", ".cfg", ".ini")
_FILE = re.compile(rf"[\w./-]+(?:{'|'.join(map(re.escape, _TEXTS))})\b")


def named_by(group: Group, text: str) -> str:
    """Return the left-out path that a text names, empty if it names none."""
    if "*" in group.path:
        folder = posixpath.dirname(group.path.rstrip("/"))
        ending = group.path.rpartition("*")[2].rstrip("/")
        inside = rf"{re.escape(folder)}/" if folder else ""
        expression = rf"{inside}[^\s\"'/]*{re.escape(ending)}"
        if not (inside or ending):
            return ""
    else:
        own = re.escape(group.path.rstrip("/"))
        expression = rf"{own}/[^\s\"']*|{own}" if group.path.endswith("/") else own
    quoted = re.compile(rf"(?<=[\"'`])(?:\./)?({expression})/?(?=[\"'`])")
    with_slash = re.compile(rf"(?<![\w./-])(?:\./)?({expression})(?![\w.-])")
    for found in (*quoted.finditer(text), *with_slash.finditer(text)):
        # A bare word such as `data` is not a path unless it is quoted.
        if "/" in found[1] or "." in found[1] or found.re is quoted:
            return found[1]
    return ""


def report_left_out(
    project: Project, script: str, args: Sequence[str], output: "Output"
) -> list[dict[str, Any]]:
    """Report files that the run may miss; warn where the program names one.

    Returns the document for --json.
    """
    texts = _texts(project, script, args)
    groups = [group for group in groups_of(project) if not group.is_clutter]
    documents = []
    quiet: list[Group] = []
    secrets: list[Group] = []
    for group in groups:
        found = ((source, named_by(group, text)) for source, text in texts)
        source, named = next((pair for pair in found if pair[1]), ("", ""))
        documents.append({**group.as_document(), "named": named})
        if named:
            by = group.by if group.may_hold_secrets else group.ignore_file
            text = f"warning: {source} names {named}, which is left out by {by}: {group}"
            output.note(text, style="bold yellow")
        elif group.may_hold_secrets:
            secrets.append(group)
        elif not group.ignore_file.endswith(RUNCTL_IGNORE):  # whose exclusions are deliberate
            quiet.append(group)
    if secrets:
        output.note(_secrets_text(secrets), style="yellow")
    for group in quiet[:MAX_SHOWN]:
        output.note(f"left out by {group.ignore_file}: {group}", style="yellow")
    if len(quiet) > MAX_SHOWN:
        output.note(
            f"{len(quiet) - MAX_SHOWN} more are left out; see left_out of --dry-run --json",
            style="yellow",
        )
    return documents[:MAX_IN_NOTE]


def _secrets_text(groups: Sequence[Group]) -> str:
    names = [group.path for group in groups[:MAX_SHOWN]]
    more = f" and {len(groups) - MAX_SHOWN} more" if len(groups) > MAX_SHOWN else ""
    return (
        f"left out because their names suggest secrets: {', '.join(names)}{more}; include a file "
        f"with a line such as `{groups[0].remedy[0]}` in {RUNCTL_IGNORE}"
    )


def _texts(project: Project, script: str, args: Sequence[str]) -> list[tuple[str, str]]:
    """Return the texts that may name files: the command line, and the programs that it names."""
    # In quotes, an argument counts as a path even if it is a bare word.
    values = [word.partition("=")[2] if word.startswith("-") else word for word in args]
    texts = [("the command line", "\n".join(f"'{value}'" for value in values))]
    packed = {member.path for member in project.members if not (member.is_folder or member.target)}
    waiting = [posixpath.normpath(name) for name in (script, *args) if name]
    seen: set[str] = set()
    while waiting and len(seen) < _MAX_TEXTS:
        name = waiting.pop(0)
        if name in seen or name not in packed or not name.endswith(_TEXTS):
            continue
        seen.add(name)
        with (project.folder / name).open(encoding="utf-8", errors="replace") as stream:
            text = stream.read(_MAX_TEXT_BYTES)
        texts.append((name, text))
        waiting += [posixpath.normpath(word) for word in _FILE.findall(text)]
    return texts


def explain_missing(project: Project, path: str) -> str:
    """Return why a path that is needed is not in the package, with the remedy."""
    if not os.path.lexists(project.folder / path):
        return f"{path} does not exist in the project"
    for entry in project.left_out:
        excluded = entry.path.rstrip("/")
        is_inside = path == excluded or path.startswith(f"{excluded}/")
        if is_inside or excluded.startswith(f"{path}/"):
            return (
                f"{path} is left out of the package by {entry.by}; include it with "
                f"`!{escaped(entry.path)}` in .runctlignore"
            )
    return f"{path} is not in the package; --dry-run lists the files that are"
