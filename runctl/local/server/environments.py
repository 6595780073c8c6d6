# ruff: noqa: SLF001 - it changes how ministack starts the processes of functions
"""The execution environments of Python functions: a process each, on one copy of the code."""

from __future__ import annotations

import contextvars
import hashlib
import importlib.util
import io
import shutil
import subprocess
import tempfile
import threading
import types
import weakref
import zipfile
from pathlib import Path
from typing import Any

from ministack.core import lambda_runtime

from runctl.local.core.interpreter import base_python
from runctl.local.server.forks import ForkedProcess, ForkServer

# What AWS's Python runtimes offer besides the standard library.
_RUNTIME_MODULES = (
    "boto3", "botocore", "s3transfer", "jmespath", "dateutil", "six", "urllib3",
)  # fmt: skip
_EMPTY_ARCHIVE = b"PK\5\6" + bytes(18)
# ministack ends the process of a handler that raises; on AWS the environment serves the next event.
_FATAL, _ANSWERED = (
    f'{{"status": "{status}", "error": str(e), "trace"' for status in ("error", "ok")
)
_code: contextvars.ContextVar[Code] = contextvars.ContextVar("code")


class Code:
    """The unpacked code of a function, removed with the last environment that has it."""

    def __init__(self, archive: bytes) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="function-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        with zipfile.ZipFile(io.BytesIO(archive)) as packed:
            packed.extractall(self.folder)
        self.brought = [path.stem for path in self.folder.iterdir()]


class Codes:
    """The code of all functions: unpacked once, however many environments of functions have it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._unpacked: weakref.WeakValueDictionary[str, Code] = weakref.WeakValueDictionary()

    def unpacked(self, archive: bytes) -> Code:
        """Return the code of an archive."""
        digest = hashlib.sha256(archive).hexdigest()
        with self._lock:
            code = self._unpacked.get(digest)
            if code is None:
                code = self._unpacked[digest] = Code(archive)
            return code


class Environment(lambda_runtime.Worker):  # type: ignore[misc]
    """The environment of a Python function."""

    codes = Codes()

    def __init__(self, func_name: str, config: dict[str, Any], code_zip: bytes) -> None:
        super().__init__(func_name, config, _EMPTY_ARCHIVE)
        self._archive = code_zip

    def _spawn(self) -> None:
        self._code = self.codes.unpacked(self._archive)
        token = _code.set(self._code)
        try:
            super()._spawn()
        finally:
            _code.reset(token)

    def invoke(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Run one invocation; an exception of the handler leaves the process as it is."""
        answer: dict[str, Any] = super().invoke(*arguments, **options)
        return answer | {"status": "error"} if "trace" in answer else answer


def install(home: Path) -> None:
    """Let Python functions have these environments, which import only what AWS has."""
    modules = home / "lambda-runtime"
    modules.mkdir(exist_ok=True)
    for name in _RUNTIME_MODULES:
        _link(name, modules)
    class_for, detect = lambda_runtime._worker_class_for, lambda_runtime._detect_runtime_binary

    def worker_class_for(config: dict[str, Any]) -> type[lambda_runtime.Worker]:
        found: type[lambda_runtime.Worker] = class_for(config)
        return Environment if _is_python(config.get("Runtime", "")) else found

    def detect_runtime(runtime: str) -> tuple[str, str]:
        binary, script = detect(runtime)
        if not _is_python(runtime):
            return binary, script
        if _FATAL not in script:
            raise RuntimeError("ministack reports exceptions of handlers in another way")
        return base_python(), script.replace(_FATAL, _ANSWERED)

    forks = ForkServer(modules)

    def start(command: list[str], **options: Any) -> subprocess.Popen[str] | ForkedProcess:
        code = _code.get(None)
        if code is None:
            return subprocess.Popen(command, **options)
        folder = Path(options["cwd"])
        folder.rmdir()
        folder.symlink_to(code.folder)
        return forks.start(
            command[-1], folder=folder, environment=options["env"], brought=code.brought
        )

    lambda_runtime._worker_class_for = worker_class_for
    lambda_runtime._detect_runtime_binary = detect_runtime
    lambda_runtime.subprocess = types.SimpleNamespace(**(vars(subprocess) | {"Popen": start}))


def _link(name: str, modules: Path) -> None:
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(name)
    origin = Path(found.origin)
    source = origin.parent if origin.name == "__init__.py" else origin
    link = modules / source.name
    link.unlink(missing_ok=True)
    link.symlink_to(source)


def _is_python(runtime: str) -> bool:
    return runtime.startswith("python")
