"""Passwords and tokens in the addresses of dependency files, which are packed and stored."""

from collections.abc import Collection, Iterator

from runctl.model.declaration import Declaration
from runctl.model.errors import Problem
from runctl.model.plain_secrets import shape_of_secret
from runctl.model.references import Tree


def find_plain_credentials(
    tree: Tree, declaration: Declaration, not_secrets: Collection[str]
) -> Iterator[Problem]:
    """Yield the addresses that contain what looks like a secret, without the secret."""
    files = [*declaration.references.lists]
    files += [name for name in declaration.references.files if name.endswith((".toml", ".lock"))]
    if declaration.source.endswith(".toml"):
        files.append(declaration.source)
    for name in dict.fromkeys(files):
        if name not in not_secrets:
            yield from _in_lines(name, _read(tree, name).splitlines())
    if not declaration.references.lists and declaration.source not in {*files, *not_secrets}:
        for text in declaration.requirements:
            yield from _in_text(declaration.source, declaration.source, text)


def _read(tree: Tree, name: str) -> str:
    try:
        return tree.read(name)
    except UnicodeDecodeError:  # which another check reports
        return ""


def _in_lines(name: str, lines: Collection[str]) -> Iterator[Problem]:
    for number, line in enumerate(lines, start=1):
        if not line.lstrip().startswith("#"):
            yield from _in_text(f"{name}:{number}", name, line)


def _in_text(field: str, name: str, text: str) -> Iterator[Problem]:
    if "://" in text and (shape := shape_of_secret(text)):
        yield Problem(
            field,
            f"contains what looks like {shape}, and the project is stored; remove the login, keep "
            "the address of the index with its login in a secret, and give "
            "--env PIP_EXTRA_INDEX_URL=secret:NAME. If it is not a secret, add "
            f"{name!r} to not_secrets (--not-secret)",
        )
