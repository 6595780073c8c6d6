"""Forks the processes of functions: importing the SDK takes half of what a function's start does.

The plain interpreter runs it as a program, which has the standard library and the SDK only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

# With another version of one of these, the rest of the SDK has to be imported anew, too.
_USED_BY_THE_SDK = {"boto3", "botocore", "s3transfer", "urllib3"}
# The request, and what the process is connected to: stdin, stdout and stderr.
_DESCRIPTORS = 4


def main(modules: str) -> None:
    """Fork a process for each request and answer with its id, until the socket is closed.

    `modules` is the folder with the SDK.
    """
    sys.path.insert(0, modules)
    plain = set(sys.modules)
    import boto3  # noqa: F401
    import botocore.handlers  # noqa: F401

    sdk = [name for name in sys.modules if name not in plain and _is_third_party(name)]
    signal.signal(signal.SIGCHLD, _reap)
    with socket.socket(fileno=0) as requests:
        while True:
            _, descriptors, _, _ = socket.recv_fds(requests, 1, _DESCRIPTORS)
            if not descriptors:
                return
            # An ended process keeps its id until the other side says that it has a pidfd.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
            process = os.fork()
            if process == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
                _become(*descriptors, requests=requests.detach(), sdk=sdk)
            for descriptor in descriptors:
                os.close(descriptor)
            requests.send(b"%d" % process)
            requests.recv(1)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


def _reap(*_: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _is_third_party(name: str) -> bool:
    return name.partition(".")[0] not in sys.stdlib_module_names


def _become(
    request: int, stdin: int, stdout: int, stderr: int, *, requests: int, sdk: list[str]
) -> None:
    """Run the requested program in this process, and end it."""
    code = 1
    try:
        with os.fdopen(request) as file:
            wanted = json.load(file)
        for number, descriptor in enumerate((stdin, stdout, stderr)):
            os.dup2(descriptor, number)
        os.closerange(3, max(stdin, stdout, stderr, requests) + 1)
        os.environ.clear()
        os.environ.update(wanted["environment"])
        os.chdir(wanted["folder"])
        _forget_what_is_brought(wanted["brought"], sdk)
        _run(wanted["program"])
        code = 0
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _forget_what_is_brought(brought: list[str], sdk: list[str]) -> None:
    """Let parts of the SDK that the function's own archive has be imported from there."""
    is_all = bool(_USED_BY_THE_SDK.intersection(brought))
    for name in sdk:
        if is_all or name.partition(".")[0] in brought:
            del sys.modules[name]


def _run(program: str) -> None:
    sys.argv[:] = [program]
    sys.path.insert(0, str(Path(program).parent))
    text = Path(program).read_text()
    space: dict[str, Any] = {"__name__": "__main__", "__file__": program}
    exec(compile(text, program, "exec"), space)  # noqa: S102 - the program itself


if __name__ == "__main__":
    main(sys.argv[1])
