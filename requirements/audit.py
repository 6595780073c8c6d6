"""The audit of what is locked: hashes, versions, install scripts, and known advisories.

Needs Python 3.11 and nothing else. Advisories come from OSV, with one request for 1,000 packages.
A service that cannot be reached is reported and fails nothing, unless `--online` demands it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomllib

PROJECT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements/*.txt", "lambdas/*.txt")
DEV = "requirements/dev.txt"
TORCH = "requirements/torch.txt"
SERVICE = "https://api.osv.dev/v1/querybatch"
# For an answer; a computer without a network fails at once.
TIMEOUT_SECONDS = 5.0
MAX_QUERIES = 1000
MAX_ANSWER_BYTES = 10_000_000

# Locks of environments that share nothing with the others, so their versions may differ.
SEPARATE: Mapping[str, str] = {
    "requirements/bench.txt": "the tools that the benchmarks compare with",
    "requirements/examples.txt": "what the example trainers install on their instances",
    "lambdas/tuning.txt": "what only the function that suggests trials has",
}
# Advisories that do not apply, with the reason: "PYSEC-2026-1": "only concerns …".
ACCEPTED: Mapping[str, str] = {}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PINNED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^]]*\])?==([^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}(?=\s|$)")


@dataclass(frozen=True, kw_only=True, order=True)
class Locked:
    """A package in a lock."""

    ecosystem: str
    name: str
    version: str
    lock: str


class UnreachableError(Exception):
    """The service for advisories did not answer, or not with an answer."""


def read_lock(lock: str, text: str) -> tuple[list[Locked], list[str]]:
    """Return the packages of a lock for pip, and what is wrong with it."""
    packages, problems = [], []
    for line in _logical_lines(text):
        pinned = _PINNED.match(line)
        if pinned is None:
            problems.append(f"{lock}: {line.split()[0]!r} is not pinned; write NAME==VERSION")
            continue
        name = _normalized(pinned[1])
        if not _HASH.search(line):
            problems.append(f"{lock}: {name} has no hash; run `make lock`")
        version = pinned[2].partition("+")[0]  # a build of that version
        packages.append(Locked(ecosystem="PyPI", name=name, version=version, lock=lock))
    return packages, problems


def unlocked(lock: str, declared: Iterable[str], packages: Iterable[Locked]) -> list[str]:
    """Return the declared packages that a lock lacks."""
    known = {package.name for package in packages}
    return [
        f"{lock}: lacks {name}, which is declared; run `make lock`"
        for name in sorted({_normalized(name) for name in declared} - known)
    ]


def declared_in(text: str) -> list[str]:
    """Return the names that a list of requirements declares."""
    found = (_NAME.match(line) for line in _logical_lines(text))
    return [match[0] for match in found if match]


def conflicts(packages: Iterable[Locked]) -> list[str]:
    """Return the packages that locks of one environment have in different versions."""
    versions: dict[str, dict[str, list[str]]] = {}
    for package in packages:
        if package.lock not in SEPARATE:
            of_name = versions.setdefault(package.name, {})
            of_name.setdefault(package.version, []).append(package.lock)
    return [
        f"{name}: has different versions: "
        + ", ".join(f"{version} in {' and '.join(locks)}" for version, locks in found.items())
        + "; run `make lock`"
        for name, found in sorted(versions.items())
        if len(found) > 1
    ]


def read_npm(
    manifest: Mapping[str, Any], lock: Mapping[str, Any]
) -> tuple[list[Locked], list[str]]:
    """Return the packages of npm's lock, and what is wrong with it."""
    packages, problems = [], []
    entries: Mapping[str, Any] = lock.get("packages", {})
    for path, entry in entries.items():
        if not path:
            continue
        name = path.rpartition("node_modules/")[2]
        if not str(entry.get("integrity", "")).startswith("sha512-"):
            problems.append(f"package-lock.json: {name} has no integrity; run `npm install`")
        if entry.get("hasInstallScript"):
            problems.append(
                f"package-lock.json: {name} runs a script when it is installed; use another package"
            )
        version = str(entry.get("version", ""))
        packages.append(
            Locked(ecosystem="npm", name=name, version=version, lock="package-lock.json")
        )
    for kind in ("dependencies", "devDependencies"):
        for name, version in manifest.get(kind, {}).items():
            if entries.get(f"node_modules/{name}", {}).get("version") != version:
                problems.append(
                    f"package.json: {name} {version} is not the locked version; run `npm install`"
                )
    return packages, problems


def find_advisories(
    packages: Sequence[Locked], *, service: str = SERVICE, timeout: float = TIMEOUT_SECONDS
) -> dict[Locked, list[str]]:
    """Return the known advisories of packages; raises UnreachableError without an answer."""
    found: dict[Locked, list[str]] = {}
    for start in range(0, len(packages), MAX_QUERIES):
        asked = packages[start : start + MAX_QUERIES]
        results = _ask(service, asked, timeout)
        for package, result in zip(asked, results, strict=True):
            if advisories := [str(each["id"]) for each in result.get("vulns", ())]:
                found[package] = sorted(advisories)
    return found


def _ask(service: str, packages: Sequence[Locked], timeout: float) -> list[dict[str, Any]]:
    queries = [
        {"package": {"name": each.name, "ecosystem": each.ecosystem}, "version": each.version}
        for each in packages
    ]
    request = urllib.request.Request(  # noqa: S310 - the address is ours, or an option
        service,
        data=json.dumps({"queries": queries}).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
            results = json.loads(answer.read(MAX_ANSWER_BYTES))["results"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise UnreachableError(f"{service}: {exc}") from exc
    if not isinstance(results, list) or len(results) != len(packages):
        raise UnreachableError(f"{service}: the answer is not one result for each package")
    return [result if isinstance(result, dict) else {} for result in results]


def read_project(project: Path) -> tuple[list[Locked], list[str]]:
    """Return everything that a project locks, and what is wrong with its locks."""
    packages: list[Locked] = []
    problems: list[str] = []
    dev: list[Locked] = []
    # It is locked in a list of its own; see Makefile.
    torch = _torch(project)
    for pattern in LOCKS:
        for path in sorted(project.glob(pattern)):
            lock = str(path.relative_to(project))
            found, wrong = read_lock(lock, path.read_text())
            dev = found if lock == DEV else dev
            packages += found
            problems += wrong
            source = path.with_suffix(".in")
            if source.exists():
                problems += unlocked(lock, declared_in(source.read_text()), [*found, *torch])
    manifest = tomllib.loads((project / "pyproject.toml").read_text())
    problems += unlocked(DEV, _declared_by_us(manifest), dev)
    problems += conflicts(packages)
    npm, wrong = read_npm(
        json.loads((project / "package.json").read_text()),
        json.loads((project / "package-lock.json").read_text()),
    )
    return [*packages, *npm], [*problems, *wrong]


def _torch(project: Path) -> list[Locked]:
    path = project / TORCH
    return read_lock(TORCH, path.read_text())[0] if path.exists() else []


def _declared_by_us(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Return what pyproject.toml declares, apart from what other Pythons or systems need."""
    own = manifest.get("project", {})
    lists = [
        own.get("dependencies", []),
        *own.get("optional-dependencies", {}).values(),
        manifest.get("build-system", {}).get("requires", []),
    ]
    for requirement in (each for listed in lists for each in listed):
        if ";" not in requirement and (found := _NAME.match(requirement)):
            yield found[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Audit the project, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--online", action="store_true", help="fail if advisories cannot be read")
    parser.add_argument("--service", default=SERVICE, help="where OSV's API answers")
    parser.add_argument("--project", type=Path, default=PROJECT, help="the folder to audit")
    options = parser.parse_args(arguments)
    packages, problems = read_project(options.project)
    by_release = {(each.ecosystem, each.name, each.version): each for each in reversed(packages)}
    releases = sorted(by_release.values())
    try:
        advisories = find_advisories(releases, service=options.service)
    except UnreachableError as exc:
        asked = f"advisories were not read ({exc})"
        problems += [asked] if options.online else []
    else:
        asked = "their advisories were read"
        problems += [
            f"{package.lock}: {package.name} {package.version} has the advisory {advisory}; "
            f"update it, or explain in requirements/audit.py why it does not apply"
            for package, known in advisories.items()
            for advisory in known
            if advisory not in ACCEPTED
        ]
        known = {advisory for found in advisories.values() for advisory in found}
        problems += [
            f"{each}: accepted, but no locked package has it" for each in ACCEPTED.keys() - known
        ]
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"audited {len(releases)} locked packages; {asked}")
    return 1 if problems else 0


def _logical_lines(text: str) -> list[str]:
    """Return the lines of a list of requirements, without options of pip and comments."""
    joined = re.sub(r"\\\n", " ", text)
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if line and not line.startswith("-c ")]


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main())
