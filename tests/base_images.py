"""Base images made of what this machine has, so that no test needs a network.

`busybox` is a shell and its tools. `python` adds this machine's interpreter with its standard
library, the C libraries that these need, and pip: what a trainer's Dockerfile expects of its base.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import io
import os
import platform
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from runctl.local.core.interpreter import base_python

FOLDER = Path(__file__).parents[1] / "build/base-images"
_PATH = "PATH=/usr/local/bin:/usr/bin:/bin"
# What no trainer of the tests needs; it would be half of the image.
_LEFT_OUT = {
    "__pycache__", "dist-packages", "ensurepip", "idlelib", "lib2to3", "lib-dynload",
    "site-packages", "sitecustomize.py", "test", "tests", "tkinter", "turtledemo",
    "usercustomize.py",
}  # fmt: skip
_NOT_READ = {".a", ".exe", ".o", ".so"}


def archive(name: str) -> tuple[Path, list[str]]:
    """Return an archive for `docker import`, and the changes that make it an image.

    The archive is made once for this interpreter and kept in build/base-images.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    recipe = hashlib.sha256(Path(__file__).read_bytes() + sys.version.encode()).hexdigest()
    path = FOLDER / f"{name}-{recipe[:16]}.tar"
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the workers of a test run make it once
        if not path.exists():
            partial = path.with_suffix(".partial")
            with tarfile.open(partial, "w") as tar:
                {"busybox": _add_busybox, "python": _add_python}[name](tar)
            partial.replace(path)
    command = {"busybox": "sh", "python": "python3"}[name]
    return path, [f"ENV {_PATH}", f'CMD ["{command}"]']


def _add_busybox(tar: tarfile.TarFile) -> None:
    for folder in ("bin", "etc", "proc", "root", "sys", "usr/bin", "usr/local/bin", "var/tmp"):
        _add_folders(tar, f"/{folder}/.")
    _add_folder(tar, "tmp", 0o1777)
    busybox = shutil.which("busybox") or "/bin/busybox"
    _add_file(tar, busybox, "bin/busybox")
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    for tool in listed.stdout.split():
        if tool != "busybox":
            _add_link(tar, f"bin/{tool}", "busybox")
    _add_link(tar, "usr/bin/env", "/bin/busybox")
    _add_text(tar, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
    _add_text(tar, "etc/group", "root:x:0:\nnogroup:x:65534:\n")


def _add_python(tar: tarfile.TarFile) -> None:
    _add_busybox(tar)
    binary, library = Path(base_python()).resolve(), Path(sysconfig.get_path("stdlib"))
    version = ".".join(platform.python_version_tuple()[:2])
    target = f"usr/local/lib/python{version}"
    for folder in ("site-packages", "lib-dynload"):
        _add_folders(tar, f"/{target}/{folder}/.")
    _add_file(tar, binary, f"usr/local/bin/python{version}")
    for name in ("python", "python3"):
        _add_link(tar, f"usr/local/bin/{name}", f"python{version}")
    pip = importlib.util.find_spec("pip")
    assert pip is not None
    assert pip.origin is not None
    # Thousands of small files take longer to pull and to remove than to run. pip is beside the
    # standard library, since Debian's interpreter does not look for modules in site-packages.
    packed = _compiled({"": library, "pip": Path(pip.origin).parent})
    _add_bytes(tar, f"usr/local/lib/python{version.replace('.', '')}.zip", packed)
    _add_file(tar, library / "os.py", f"{target}/os.py")  # by which Python finds its folder
    extensions = sorted((library / "lib-dynload").glob("*.so"))
    for extension in extensions:
        _add_file(tar, extension, f"{target}/lib-dynload/{extension.name}")
    starter = "#!/usr/local/bin/python3\nimport sys\nfrom pip._internal.cli.main import main\n"
    _add_text(tar, "usr/local/bin/pip", f"{starter}sys.exit(main())\n", mode=0o755)
    for needed in _libraries([binary, *extensions]):
        _add_folders(tar, needed)
        _add_file(tar, needed, needed.lstrip("/"))


def _libraries(binaries: Iterable[Path]) -> list[str]:
    """Return the paths of the C libraries that programs need, as the loader looks for them."""
    done = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False)
    return sorted(set(re.findall(r"(/\S+) \(0x", done.stdout)))


def _compiled(sources: Mapping[str, Path]) -> bytes:
    """Return the modules of folders, compiled, in an archive from which Python imports them.

    The keys are the folders' names in the archive. The modules are not compressed, since Python
    could not read its first ones then.
    """
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as target, tempfile.TemporaryDirectory() as folder:
        for name, source in sources.items():
            for path in sorted(source.rglob("*")):
                inside = path.relative_to(source)
                if _LEFT_OUT.intersection(inside.parts) or not path.is_file():
                    continue
                if path.suffix == ".py":
                    compiled = Path(folder, "module.pyc")
                    py_compile.compile(str(path), str(compiled), dfile=str(inside), doraise=True)
                    target.write(compiled, Path(name, inside).with_suffix(".pyc"))
                elif path.suffix not in _NOT_READ:
                    target.write(path, Path(name, inside))
    return packed.getvalue()


def _add_folders(tar: tarfile.TarFile, path: str) -> None:
    """Add the folders above a path, which every user may enter."""
    known = set(tar.getnames())
    for parent in reversed(Path(path).parents):
        name = str(parent).lstrip("/")
        if name and name not in known:
            _add_folder(tar, name, 0o755)


def _add_folder(tar: tarfile.TarFile, name: str, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    tar.addfile(info)


def _add_file(tar: tarfile.TarFile, source: str | Path, name: str) -> None:
    with Path(source).open("rb") as stream:
        info = tarfile.TarInfo(name)
        info.size, info.mode = os.fstat(stream.fileno()).st_size, 0o755
        tar.addfile(info, stream)


def _add_link(tar: tarfile.TarFile, name: str, target: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    tar.addfile(info)


def _add_text(tar: tarfile.TarFile, name: str, text: str, *, mode: int = 0o644) -> None:
    _add_bytes(tar, name, text.encode(), mode=mode)


def _add_bytes(tar: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    tar.addfile(info, io.BytesIO(content))
