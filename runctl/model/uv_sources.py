"""`[tool.uv.sources]`: the sources of dependencies for uv, in pip's syntax."""

from collections.abc import Mapping, Sequence
from typing import Any


def apply_sources(
    requirements: Sequence[str], sources: Any
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return requirements with the sources that `[tool.uv.sources]` gives, and those left over."""
    if not isinstance(sources, Mapping):
        return tuple(requirements), ()
    places = {_canonical(str(name)): place for name, place in sources.items()}
    done: list[str] = []
    refused: list[str] = []
    for text in requirements:
        name = _name_of(text)
        place = places.get(_canonical(name.partition("[")[0]))
        if place is None:
            done.append(text)
        elif isinstance(place, Mapping) and (url := _url_of(place)):
            marker = text.partition(";")[2].strip()
            done.append(f"{name} @ {url}" + (f" ; {marker}" if marker else ""))
        else:
            refused.append(name)
    return tuple(done), tuple(refused)


def index_options(packages: Any, indexes: Any) -> tuple[str, ...]:
    """Return pip's options for the indexes that the packages of a uv.lock come from.

    `indexes` is `[[tool.uv.index]]`. A registry that is neither listed there nor a folder is the
    default one, which pip may be configured to replace with a mirror.
    """
    formats = {
        str(index.get("url")).rstrip("/"): index.get("format")
        for index in (indexes if isinstance(indexes, list) else ())
        if isinstance(index, Mapping)
    }
    places = [
        str(source["registry"])
        for package in (packages if isinstance(packages, list) else ())
        if isinstance(package, Mapping)
        and isinstance(source := package.get("source"), Mapping)
        and "registry" in source
    ]
    options = []
    for place in dict.fromkeys(places):
        if "://" not in place or formats.get(place.rstrip("/")) == "flat":
            options.append(f"--find-links {place}")
        elif place.rstrip("/") in formats:
            options.append(f"--extra-index-url {place}")
    return tuple(options)


def _url_of(place: Mapping[str, Any]) -> str:
    """Return the URL for pip of one of uv's sources; empty if only uv supports it."""
    suffix = f"#subdirectory={place['subdirectory']}" if place.get("subdirectory") else ""
    if path := place.get("path"):
        return f"file:{path}" if str(path).startswith(("/", ".")) else f"file:./{path}"
    if git := place.get("git"):
        revision = place.get("rev") or place.get("tag") or place.get("branch")
        return f"git+{git}" + (f"@{revision}" if revision else "") + suffix
    return f"{place['url']}{suffix}" if place.get("url") else ""


def _name_of(requirement: str) -> str:
    end = next((at for at, char in enumerate(requirement) if char in "<>=!~;@ ("), None)
    head = requirement[:end].strip()
    if end is not None and requirement[end:].lstrip().startswith("["):
        head += requirement[end:].lstrip().partition("]")[0] + "]"
    return head


def _canonical(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(".", "-")
