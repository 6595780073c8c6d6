"""What the trainer's environment is built from: a mistake there would only show after a launch."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runctl.cli.project import Project
from runctl.model.errors import InvalidRequestError, Problem

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def check_dependencies(project: Project, script: str) -> None:
    """Read what the environment will be built from; InvalidRequestError when that cannot work."""
    packed = {member.path for member in project.members}
    problems: list[Problem] = []
    if "requirements.txt" in packed:
        problems += _check_requirements(project.folder, "requirements.txt", packed)
    for name in ("pyproject.toml", "uv.lock"):
        if name in packed:
            problems += _check_toml(project.folder / name, name)
    if script.endswith(".py") and script in packed:
        problems += _check_script_metadata(project.folder / script, script)
    if problems:
        raise InvalidRequestError(tuple(problems))


_REQUIREMENT = re.compile(
    r"""[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\s*       # the name
        (\[[A-Za-z0-9._,\s-]*\])?\s*                      # extras
        (@\s*\S+(\s+;.*)?                                 # where it is
        | \(?\s*((===|==|~=|!=|<=|>=|<|>)\s*[^\s,;()]+\s*,?\s*)*\)?\s*(;.*)?)  # or which
        (\s--\S+.*)?""",
    re.VERBOSE,
)


def _check_requirements(folder: Path, name: str, packed: set[str]) -> Iterator[Problem]:
    try:
        text = (folder / name).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        yield Problem(name, "is not UTF-8 text; save it as UTF-8")
        return
    for number, line in enumerate(_logical_lines(text)):
        first, _, rest = line.partition(" ")
        if first in {"-r", "-c", "--requirement", "--constraint"}:
            other = os.path.normpath(Path(name).parent / rest.strip())
            if other not in packed:
                yield Problem(name, f"{line!r} names a file that is not in the package")
        elif line.startswith("-") or "://" in first or first.startswith((".", "/")):
            continue
        elif line and not _REQUIREMENT.fullmatch(line):
            yield Problem(
                f"{name}:{number + 1}", f"{line!r} is no requirement such as 'torch>=2.4'"
            )


def _logical_lines(text: str) -> Iterator[str]:
    """Yield one text a physical line; a continued one ends where its last line is."""
    pending = ""
    for line in text.splitlines():
        whole = pending + re.sub(r"(^|\s)#.*", "", line).strip()
        pending = whole[:-1] + " " if whole.endswith("\\") else ""
        yield "" if pending else whole.strip()


def _check_toml(path: Path, name: str) -> Iterator[Problem]:
    try:
        tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        yield Problem(name, f"is no TOML: {exc}")


_METADATA = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")


def _check_script_metadata(path: Path, name: str) -> Iterator[Problem]:
    """Check a script's inline metadata (PEP 723)."""
    text = path.read_text(encoding="utf-8", errors="replace")
    blocks = [match for match in _METADATA.finditer(text) if match["type"] == "script"]
    if len(blocks) > 1:
        yield Problem(name, "has two `# /// script` blocks; leave one")
    for block in blocks[:1]:
        lines = block["content"].splitlines()
        try:
            metadata: Mapping[str, Any] = tomllib.loads(
                "\n".join(line[2:] if line.startswith("# ") else line[1:] for line in lines)
            )
        except tomllib.TOMLDecodeError as exc:
            yield Problem(name, f"its `# /// script` block is no TOML: {exc}")
            continue
        dependencies = metadata.get("dependencies", [])
        if not isinstance(dependencies, list) or not all(
            isinstance(one, str) and _REQUIREMENT.fullmatch(one.strip()) for one in dependencies
        ):
            yield Problem(name, f"its `# /// script` block has bad dependencies: {dependencies!r}")
