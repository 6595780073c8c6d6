"""Which dependencies a trainer declares, and where."""

import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runctl.model.errors import RequestError

if sys.version_info >= (3, 11):
    import tomllib
else:  # for Python 3.10 the vendored pip brings a reader, inside its wheel
    VENDOR = Path(__file__).resolve().parents[2] / "vendor"
    sys.path += [str(wheel) for wheel in VENDOR.glob("pip-*.whl")]
    from pip._vendor import tomli as tomllib

SCRIPT_BLOCK = re.compile(
    r"(?m)^# /// script\s*$\s(?P<content>(^#(| .*)$\s)+)^# ///$",
)


@dataclass(frozen=True)
class Declared:
    """What a trainer asks for.

    `source` is the file that says so, as a person would name it. `requirements` are the lines for
    pip; `file` is set where pip (or uv, for a lock) should read a file itself.
    """

    source: str
    requirements: tuple[str, ...] = ()
    file: Path | None = None
    lock: Path | None = None
    requires_python: str = ""

    @property
    def fingerprint(self) -> bytes:
        """What of the declaration decides the environment."""
        digest = hashlib.sha256()
        for text in (*self.requirements, self.requires_python):
            digest.update(text.encode() + b"\0")
        for path in (self.file, self.lock):
            if path is not None:
                for part in (path, *_included(path)):
                    digest.update(part.read_bytes() + b"\0")
        return digest.digest()


NOTHING = Declared("no dependency file")


def find_dependencies(project: Path, script: str) -> Declared:
    """Return the nearest declaration: in the script, then beside it, then in each folder above.

    In one folder uv.lock comes before requirements.txt, and that before pyproject.toml.
    """
    if script.endswith(".py") and (declared := _of_script(project / script, script)):
        return declared
    folder = (project / script).parent if script else project
    while True:
        if declared := _of_folder(folder, project):
            return declared
        if folder == project:
            return NOTHING
        folder = folder.parent


def _of_script(path: Path, name: str) -> Declared | None:
    found = list(SCRIPT_BLOCK.finditer(path.read_text(encoding="utf-8", errors="replace")))
    if not found:
        return None
    if len(found) > 1:
        raise RequestError(f"{name} has {len(found)} blocks of script metadata; keep one")
    lines = found[0]["content"].splitlines()
    document = _parse("".join(f"{line[2:]}\n" for line in lines), name)
    return Declared(
        f"the script metadata of {name}",
        requirements=_strings(document.get("dependencies", []), name, "dependencies"),
        requires_python=str(document.get("requires-python", "")),
    )


def _of_folder(folder: Path, project: Path) -> Declared | None:
    def name(path: Path) -> str:
        return path.relative_to(project).as_posix()

    lock, plain = folder / "uv.lock", folder / "requirements.txt"
    described = folder / "pyproject.toml"
    if lock.is_file() and described.is_file():
        return Declared(name(lock), file=described, lock=lock)
    if plain.is_file():
        return Declared(name(plain), file=plain)
    if described.is_file():
        section = _parse(
            described.read_text(encoding="utf-8", errors="replace"), name(described)
        ).get("project")
        if isinstance(section, dict) and "dependencies" in section:
            return Declared(
                name(described),
                requirements=_strings(section["dependencies"], name(described), "dependencies"),
                requires_python=str(section.get("requires-python", "")),
            )
    return None


def _included(path: Path) -> list[Path]:
    """Return the files that a requirements file takes in with -r or -c."""
    if path.suffix != ".txt":
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        match = re.match(r"\s*(?:-r|-c|--requirement|--constraint)[ =]\s*(\S+)", line)
        if match and (other := path.parent / match[1]).is_file() and other != path:
            found.append(other)
    return found


def _parse(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise RequestError(f"{name} is not valid TOML: {exc}") from exc


def _strings(value: Any, name: str, field: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RequestError(f"{name}: {field} is not a list of strings")
    return tuple(value)
