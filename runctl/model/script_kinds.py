"""Kinds of script, by name and first bytes: what starts each, and why others cannot start."""

from enum import Enum
from pathlib import PurePosixPath

_PYTHON = frozenset({"", ".py", ".pyc", ".pyz", ".zip"})
_NO_PROGRAMS = frozenset(
    {
        ".txt", ".md", ".rst", ".json", ".jsonl", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".csv",
        ".tsv", ".parquet", ".pdf", ".html", ".lock", ".log", ".pt", ".pth", ".ckpt", ".npz",
        ".safetensors", ".png", ".jpg",
    }
)  # fmt: skip
_INTERPRETERS = {
    ".r": "Rscript", ".jl": "julia", ".js": "node", ".mjs": "node", ".pl": "perl", ".rb": "ruby",
    ".lua": "lua", ".zsh": "zsh", ".ps1": "pwsh", ".bash": "bash",
}  # fmt: skip


class ScriptKind(Enum):
    """The programs that start scripts."""

    PYTHON = "python"  # the environment's
    BASH = "bash"
    ITSELF = "itself"  # its first line names the interpreter, or it is a compiled program


def kind_of_script(path: str, head: bytes) -> ScriptKind | None:
    """Return what starts a script that begins with `head`; None if nothing does."""
    suffix = _suffix(path)
    starts_itself = head.startswith((b"#!", b"\x7fELF"))
    if suffix == ".sh":
        return ScriptKind.ITSELF if starts_itself else ScriptKind.BASH
    if starts_itself and suffix != ".py":
        return ScriptKind.ITSELF
    return ScriptKind.PYTHON if suffix in _PYTHON else None


def problem_with_name(path: str) -> str:
    """Return why a file of this name is not a program, and the remedy; empty if it may be."""
    suffix = _suffix(path)
    if suffix == ".ipynb":
        name = PurePosixPath(path).name
        return (
            f"is a notebook, which cannot be run as a script; convert it with `jupyter nbconvert "
            f"--to script {name}`, which writes {name.removesuffix('.ipynb')}.py"
        )
    if suffix in _NO_PROGRAMS:
        return f"is not a program ({suffix}); name a Python (.py) or shell (.sh) script"
    return ""


def problem_with_script(path: str, head: bytes) -> str:
    """Return why a script cannot be started, and the remedy; empty if it can."""
    starts_itself = head.startswith((b"#!", b"\x7fELF"))
    if not starts_itself and (problem := problem_with_name(path)):
        return problem
    if kind_of_script(path, head) is not None:
        return ""
    suffix = _suffix(path)
    program = _INTERPRETERS.get(suffix, "PROGRAM")
    return (
        f"is neither a Python (.py) nor a shell (.sh) script, and does not begin with #!; name the "
        f"program that runs it: `runctl aws train --command {program} {path}`"
    )


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()
