"""What is said of what a package leaves out: in a few lines, louder where a program names it."""

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
    """Return the path of what was left out that a text names, empty if it names none."""
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
        # A bare word such as `data` is no path unless it is quoted.
        if "/" in found[1] or "." in found[1] or found.re is quoted:
            return found[1]
    return ""


def report_left_out(
    project: Project, script: str, args: Sequence[str], output: "Output"
) -> list[dict[str, Any]]:
    """Tell what the run may miss, louder what its program names; return it for --json."""
    texts = _texts(project, script, args)
    groups = [one for one in groups_of(project) if not one.is_clutter]
    documents = []
    quiet: list[Group] = []
    secrets: list[Group] = []
    for one in groups:
        found = ((who, named_by(one, text)) for who, text in texts)
        who, named = next((pair for pair in found if pair[1]), ("", ""))
        documents.append({**one.as_document(), "named": named})
        if named:
            by = (
                f"is left out by {one.by}"
                if one.may_hold_secrets
                else f"{one.ignore_file} leaves out"
            )
            output.tell(f"warning: {who} names {named}, which {by}: {one}", style="bold yellow")
        elif one.may_hold_secrets:
            secrets.append(one)
        elif not one.ignore_file.endswith(RUNCTL_IGNORE):  # that file is meant for us
            quiet.append(one)
    if secrets:
        output.tell(_secrets_text(secrets), style="yellow")
    for one in quiet[:MAX_SHOWN]:
        output.tell(f"left out by {one.ignore_file}: {one}", style="yellow")
    if len(quiet) > MAX_SHOWN:
        output.tell(
            f"left out too: {len(quiet) - MAX_SHOWN} more; see left_out of --dry-run --json",
            style="yellow",
        )
    return documents[:MAX_IN_NOTE]


def _secrets_text(groups: Sequence[Group]) -> str:
    names = [one.path for one in groups[:MAX_SHOWN]]
    more = f" and {len(groups) - MAX_SHOWN} more" if len(groups) > MAX_SHOWN else ""
    return (
        f"left out because of names that hold secrets: {', '.join(names)}{more}; bring one with a "
        f"line such as `{groups[0].remedy[0]}` in {RUNCTL_IGNORE}"
    )


def _texts(project: Project, script: str, args: Sequence[str]) -> list[tuple[str, str]]:
    """Return what may name files: the command line, its programs and what these name in turn."""
    # In quotes, an argument counts as a path though it is a bare word.
    values = [word.partition("=")[2] if word.startswith("-") else word for word in args]
    texts = [("the command line", "\n".join(f"'{value}'" for value in values))]
    packed = {one.path for one in project.members if not (one.is_folder or one.target)}
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
    """Say why a path that is needed is not in the package."""
    if not os.path.lexists(project.folder / path):
        return f"{path} does not exist in the project"
    for one in project.left_out:
        whole = one.path.rstrip("/")
        if path == whole or path.startswith(f"{whole}/") or whole.startswith(f"{path}/"):
            return (
                f"{path} is left out of the package by {one.by}; bring it with "
                f"`!{escaped(one.path)}` in .runctlignore"
            )
    return f"{path} is not in the package; see which files are, by --dry-run"
