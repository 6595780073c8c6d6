"""The assets of a deployment, built without Docker; the same inputs produce the same bytes.

The functions' code is a zip file: `lambdas/`, `runctl/` and their pure-Python libraries at the top
level. Two functions have a zip file each, with machine code for one platform: the one that suggests
trials with Optuna and numpy, the one that draws plots with matplotlib and what that needs. The
agent's archive is a tar.gz file: `runctl/`, and `vendor/` with the unpacked libraries and pip as a
wheel. `python -m stacks.assets` builds them and prints their paths.

With `bytecode` the agent's archive also contains compiled modules for the Python that builds it. A
local cloud runs agents with that Python, each unpacked into a folder of its own, where it would
otherwise spend most of its start on compiling.
"""

from __future__ import annotations

import compileall
import gzip
import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode

from stacks.settings import FUNCTION_PLATFORM, LAMBDA_PLATFORM, PROJECT, package_root

# The earliest time that both formats support: 1980-01-01.
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_TAR_TIME = 315_532_800
_MODE = 0o644
_LEVEL, _FAST = 6, 1

# botocore contains models of 400 services, 100 MB unpacked; the agent uses these.
_AGENT_SERVICES = frozenset(
    {
        "dynamodb", "ecr", "lambda", "logs", "s3", "secretsmanager", "ssm", "sso", "sso-oidc",
        "stepfunctions", "sts",
    }
)  # fmt: skip
_SERVICE_MODEL = re.compile(r"(?:botocore|boto3)/data/([^/]+)/.+")
_LEFT_OUT = re.compile(
    r".*\.dist-info/RECORD|[^/]+\.data/.*|.*__pycache__/.*|.*\.pyc|boto3/examples/.*"
)
_PURE_WHEEL = re.compile(r".+-(?:py2\.)?py3-none-any\.whl")

_OLDEST_GLIBC = (28, 27, 17)
_NOT_NEEDED = re.compile(r"numpy(?:/.+)?/(?:tests|include)/.+|numpy/f2py/.+|.+\.pyi")
# Of these, matplotlib needs a list of the names of glyphs; a few pictures as files; nothing that is
# interactive, and its own fonts only as TrueType.
_NOT_DRAWN_WITH = re.compile(
    r"contourpy.*/.+|fontTools/(?!misc/|[^/]+\.py$).+|fontTools/.+\.(?:so|c|pyx)"
    r"|PIL/_avif.+|pillow\.libs/libavif.+"
    r"|matplotlib/mpl-data/(?:sample_data|images|fonts/(?:afm|pdfcorefonts))/.+"
    r"|(?:matplotlib|mpl_toolkits)(?:/.+)?/tests/.+|matplotlib/backends/(?:web_backend/.+|_tkagg.+)"
)

Members = dict[str, bytes]


class AssetError(Exception):
    """An asset cannot be built; the message names the file and the remedy."""


@dataclass(frozen=True)
class Asset:
    """A built file and the SHA-256 of its bytes."""

    path: Path
    sha256: str


def build_functions(project: Path = PROJECT, *, build: Path | None = None) -> Asset:
    """Build the zip file that all functions share, or reuse it if the inputs are unchanged."""
    folder = build or project / "build"
    requirements = project / "lambdas/requirements.txt"
    sources = _function_sources(project)

    def members() -> Members:
        libraries = _unpacked(_wheels(requirements, folder))
        return {**libraries, **sources}

    return _build(folder / "functions.zip", [sources, requirements.read_bytes()], members, _zip)


def build_sampler(
    project: Path = PROJECT, *, build: Path | None = None, platform: str = LAMBDA_PLATFORM
) -> Asset:
    """Build the zip file of the function that suggests trials, for one platform.

    Another platform than AWS's is that of a local cloud, which may be without a network or have no
    wheels: then the function lacks Optuna, and says so when it is needed.
    """
    return _build_native("sampler", "tuning", project, build, platform=platform)


def build_plotter(
    project: Path = PROJECT, *, build: Path | None = None, platform: str = LAMBDA_PLATFORM
) -> Asset:
    """Build the zip file of the function that draws plots, like that of `build_sampler`."""
    return _build_native("plotter", "plots", project, build, platform=platform)


def _build_native(
    stem: str, lock: str, project: Path, build: Path | None, *, platform: str
) -> Asset:
    """Build the zip file of a function that also has the libraries of a lock of its own.

    They are packed once for each version of the locks: packing machine code takes seconds, which a
    local cloud would wait after each change of the sources.
    """
    folder = build or project / "build"
    pure, own = (project / f"lambdas/{name}.txt" for name in ("requirements", lock))
    try:
        native = _wheels(own, folder, platform=platform)
    except AssetError:
        if platform == LAMBDA_PLATFORM:
            raise
        native = []

    def members() -> Members:
        libraries = _unpacked([*_wheels(pure, folder), *native])
        return {name: data for name, data in libraries.items() if _is_imported(name)}

    inputs: list[Members | bytes] = [pure.read_bytes(), own.read_bytes()]
    inputs.append(platform.encode() if native else b"")
    # A local cloud waits for it, and its copy goes nowhere.
    level = _LEVEL if platform == LAMBDA_PLATFORM else _FAST
    libraries = _build(
        folder / f"{stem}-libraries.zip", inputs, members, lambda packed: _zip(packed, level=level)
    )
    sources = _function_sources(project)
    return _build(
        folder / f"{stem}.zip",
        [sources, libraries.sha256.encode()],
        lambda: sources,
        lambda added: _zip(added, onto=libraries.path.read_bytes()),
    )


def _is_imported(name: str) -> bool:
    return not (_NOT_NEEDED.fullmatch(name) or _NOT_DRAWN_WITH.fullmatch(name))


def _function_sources(project: Path) -> Members:
    packages = ("aws", "beneath", "control", "model", "plots", "policy")
    sources = _sources(project, "lambdas") | _package(project, *packages)
    return {name: data for name, data in sources.items() if not name.endswith((".in", ".txt"))}


def build_agent(
    project: Path = PROJECT, *, build: Path | None = None, bytecode: bool = False
) -> Asset:
    """Build the archive that bootstrap.sh downloads, or reuse it if the inputs are unchanged."""
    folder = build or project / "build"
    requirements = project / "instance_scripts/requirements.txt"
    packages = ("agent", "aws", "beneath", "checkpoint", "hooks", "model", "policy")
    sources = _package(project, *packages)
    for name in ("runctl/fault_points.py", "runctl/training.py"):
        sources[name] = (package_root(project) / name).read_bytes()

    def members() -> Members:
        wheels = _wheels(requirements, folder)
        libraries = _unpacked([wheel for wheel in wheels if not wheel.name.startswith("pip-")])
        kept = {name: data for name, data in libraries.items() if _is_needed(name)}
        pip = {wheel.name: wheel.read_bytes() for wheel in wheels if wheel.name.startswith("pip-")}
        vendored = {f"vendor/{name}": data for name, data in {**kept, **pip}.items()}
        found = vendored | sources
        return found | _compiled(found) if bytecode else found

    inputs: list[Members | bytes] = [sources, requirements.read_bytes()]
    if bytecode:
        inputs.append(str(sys.implementation.cache_tag).encode())
    return _build(folder / "agent.tar.gz", inputs, members, _tar_gz)


def _compiled(members: Members) -> Members:
    """Compile modules; the result is valid for these sources, whatever the files' times are."""
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        for name, data in members.items():
            if name.endswith(".py"):
                (top / name).parent.mkdir(parents=True, exist_ok=True)
                (top / name).write_bytes(data)
        # A library's file for another Python has none, and is not imported.
        compileall.compile_dir(
            top, quiet=2, stripdir=folder, invalidation_mode=PycInvalidationMode.CHECKED_HASH
        )
        return {path.relative_to(top).as_posix(): path.read_bytes() for path in top.rglob("*.pyc")}


def _is_needed(name: str) -> bool:
    model = _SERVICE_MODEL.fullmatch(name)
    return model is None or model[1] in _AGENT_SERVICES


def _sources(project: Path, *folders: str) -> Members:
    found = {}
    for folder in folders:
        for path in (project / folder).rglob("*"):
            name = path.relative_to(project).as_posix()
            if path.is_file() and not path.name.startswith(".") and not _LEFT_OUT.fullmatch(name):
                found[name] = path.read_bytes()
        if not any(name.startswith(f"{folder}/") for name in found):
            raise AssetError(f"{project / folder} has no files")
    return found


def _package(project: Path, *names: str) -> Members:
    root = package_root(project)
    package = {"runctl/__init__.py": (root / "runctl/__init__.py").read_bytes()}
    return package | _sources(root, *(f"runctl/{name}" for name in names))


def _build(
    named: Path,
    inputs: list[Members | bytes],
    members: Callable[[], Members],
    pack: Callable[[Members], bytes],
) -> Asset:
    """Build a file whose name contains the inputs' digest, unless it exists already."""
    stem, dot, suffix = named.name.partition(".")
    digest = _digest(inputs)
    path = named.with_name(f"{stem}-{digest[:16]}{dot}{suffix}")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, pack(members()))
    return Asset(path, hashlib.sha256(path.read_bytes()).hexdigest())


def _digest(inputs: list[Members | bytes]) -> str:
    # This file is an input as well: after a change to the packing, old results must not match.
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for part in inputs:
        for name, data in sorted(part.items()) if isinstance(part, dict) else [("", part)]:
            digest.update(f"{name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


def _write(path: Path, data: bytes) -> None:
    """Write the file atomically: another synth may be building the same one."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as partial:
        partial.write(data)
    Path(partial.name).chmod(_MODE)
    Path(partial.name).replace(path)


def _wheels(requirements: Path, build: Path, *, platform: str = "") -> list[Path]:
    """Download the wheels once for each version of the requirements; pip checks the hashes.

    Without a platform, they contain no machine code.
    """
    if not requirements.exists():
        raise AssetError(f"{requirements} is missing")
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    folder = build / f"wheels-{digest[:16]}{f'-{platform}' if platform else ''}"
    if not folder.exists():
        build.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=build))
        try:
            _download(requirements, partial, platform=platform)
            partial.chmod(0o755)
            partial.rename(folder)
        except OSError:
            # Another synth was faster.
            if not folder.exists():
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return sorted(folder.iterdir())


def _download(requirements: Path, into: Path, *, platform: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--require-hashes", "--only-binary", ":all:", *_target(platform)]
    command += ["--dest", str(into), "--requirement", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssetError(f"pip cannot download {requirements}:\n{done.stderr.strip()}")
    for wheel in into.iterdir():
        if not platform and not _PURE_WHEEL.fullmatch(wheel.name):
            raise AssetError(f"{requirements}: {wheel.name} is not a pure-Python wheel")


def _target(platform: str) -> list[str]:
    """Return the options of pip that select the wheels of a platform."""
    if not platform:
        # Only wheels without machine code: the same asset runs on arm64 in AWS, on x86 instances,
        # and on the machine that deploys it.
        target = ["--platform", "any", "--implementation", "py", "--abi", "none"]
        return [*target, "--python-version", "3.13"]
    found = FUNCTION_PLATFORM.fullmatch(platform)
    if found is None:
        raise AssetError(f"{platform!r} is not a platform such as {LAMBDA_PLATFORM}")
    machine, minor = found.groups()
    names = [f"manylinux_2_{glibc}_{machine}" for glibc in _OLDEST_GLIBC]
    target = [word for name in names for word in ("--platform", name)]
    target += ["--implementation", "cp", "--abi", f"cp3{minor}", "--abi", "none"]
    # A local cloud waits for it, and works without.
    return [*target, "--python-version", f"3.{minor}", "--retries", "1", "--timeout", "20"]


def _unpacked(wheels: list[Path]) -> Members:
    found: Members = {}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith("/") or _LEFT_OUT.fullmatch(name):
                    continue
                if name in found:
                    raise AssetError(f"{wheel.name}: {name} is in another wheel as well")
                found[name] = archive.read(name)
    return found


def _zip(members: Mapping[str, bytes], *, onto: bytes = b"", level: int = _LEVEL) -> bytes:
    """Pack members, behind those of a zip file if there is one."""
    packed = io.BytesIO(onto)
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(members.items()):
            info = zipfile.ZipInfo(name, _ZIP_TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3  # Unix: otherwise the modes are ignored
            info.external_attr = (0o100000 | _MODE) << 16
            archive.writestr(info, data, compresslevel=level)
    return packed.getvalue()


def _tar_gz(members: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, compresslevel=6, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, data in sorted(members.items()):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(data), _TAR_TIME, _MODE
            archive.addfile(info, io.BytesIO(data))
    return packed.getvalue()


if __name__ == "__main__":
    for built in (build_functions(), build_sampler(), build_plotter(), build_agent()):
        print(f"{built.path}  {built.path.stat().st_size} bytes  sha256 {built.sha256}")
