"""The compilation of modules, run as a script: nothing of the environment is imported or executed.

Started with `-I -S`, so that no `.pth` file of the environment runs. The argument is a descriptor
of the environment. Reads a list of words, each ended by NUL: for every module its path in the
environment, which its code states as its name, and the file to write.
"""

import contextlib
import os
import py_compile
import stat
import sys

WORDS = 2
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


def main() -> int:
    """Compile, with one process for each processor; what cannot be compiled is left out."""
    environment = int(sys.argv[1])
    words = sys.stdin.buffer.read().split(b"\0")[:-1]
    modules = [words[start : start + WORDS] for start in range(0, len(words), WORDS)]
    workers = max(1, min(os.cpu_count() or 1, len(modules)))
    pids = []
    for number in range(workers):
        pid = os.fork()
        if pid == 0:
            _compile(environment, modules[number::workers])
            os._exit(0)
        pids.append(pid)
    return max(os.waitpid(pid, 0)[1] for pid in pids)


def _compile(environment: int, modules: list[list[bytes]]) -> None:
    for path, target in modules:
        # Packages contain templates, and modules of other Python versions.
        with contextlib.suppress(OSError, RecursionError, ValueError, SyntaxError):
            source = _open(environment, path)
            try:
                # A trainer may replace what is there, so it is read by its descriptor.
                py_compile.compile(
                    f"/dev/fd/{source}",
                    os.fsdecode(target),
                    os.fsdecode(path),
                    quiet=2,
                    # Whatever the machine's SOURCE_DATE_EPOCH is.
                    invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP,
                )
            finally:
                os.close(source)


def _open(environment: int, path: bytes) -> int:
    """Open a regular file without following a link; OSError if there is none."""
    *above, name = path.split(b"/")
    opened = [environment]
    try:
        for folder in above:
            opened.append(os.open(folder, FOLDER_FLAGS, dir_fd=opened[-1]))
        source = os.open(name, FILE_FLAGS, dir_fd=opened[-1])
    finally:
        for descriptor in opened[1:]:
            os.close(descriptor)
    if not stat.S_ISREG(os.fstat(source).st_mode):
        os.close(source)
        raise FileNotFoundError(path)
    return source


if __name__ == "__main__":
    sys.exit(main())
