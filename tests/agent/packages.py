"""Packages of the tests: wheels written by hand, and sources that build without any index."""

import zipfile
from pathlib import Path

# A build backend inside the package itself, so that nothing has to be downloaded for it. Its build
# leaves a file in the sources, as compilers and version files do.
BACKEND = """
import os, pathlib, re, zipfile

def _made(folder, editable):
    text = pathlib.Path("pyproject.toml").read_text()
    name = re.search(r'name *= *"(.*)"', text)[1]
    version = re.search(r'version *= *"(.*)"', text)[1]
    optional = text.partition("optional-dependencies]")[2]
    extras = re.findall(r'^(\\w+) *= *\\["(.*)"\\]', optional, re.M)
    info = f"{name}-{version}.dist-info"
    file = f"{name}-{version}-py3-none-any.whl"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    for extra, needs in extras:
        lines += [f"Provides-Extra: {extra}", f'Requires-Dist: {needs} ; extra == "{extra}"']
    pathlib.Path(f"{name}_built.py").write_text("BUILT = True")
    with zipfile.ZipFile(pathlib.Path(folder) / file, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "\\n".join(lines) + "\\n")
        tags = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        wheel.writestr(f"{info}/WHEEL", tags)
        if editable:
            wheel.writestr(f"__editable__.{name}.pth", os.getcwd() + "\\n")
        else:
            wheel.write(f"{name}.py")
        wheel.writestr(f"{info}/RECORD", "")
    return file

def build_wheel(folder, config_settings=None, metadata_directory=None):
    return _made(folder, False)

def build_editable(folder, config_settings=None, metadata_directory=None):
    return _made(folder, True)
"""


def source_package(
    name: str, version: str = "1.0", *, says: str = "", extra: str = ""
) -> dict[str, str]:
    """Return the files of a package whose module says something; `extra` is a name it may need."""
    optional = f'[project.optional-dependencies]\ndev = ["{extra}"]\n' if extra else ""
    return {
        "pyproject.toml": (
            f'[project]\nname = "{name}"\nversion = "{version}"\n{optional}'
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        ),
        "backend.py": BACKEND,
        f"{name}.py": f"SAYS = {says or name!r}\n",
    }


def below(folder: str, files: dict[str, str]) -> dict[str, str]:
    """Return files as they are called below a folder."""
    return {f"{folder}/{name}": text for name, text in files.items()}


def make_wheel(
    folder: Path, name: str = "greeter", version: str = "1.0", *, requires: str = "", says: str = ""
) -> Path:
    """Build a tiny wheel with a console script."""
    info = f"{name}-{version}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    says = says or f"{name} {version}"
    files = {
        f"{name}.py": f"SAYS = {says!r}\nVERSION = {version!r}\n\ndef main():\n    print(SAYS)\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name}={name}:main\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in files.items():
            archive.writestr(member, text)
        record = "".join(f"{member},,\n" for member in [*files, f"{info}/RECORD"])
        archive.writestr(f"{info}/RECORD", record)
    return path
