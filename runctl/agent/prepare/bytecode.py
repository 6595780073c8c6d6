"""The compilation of modules, run as a script: nothing of the environment is imported or executed.

Started with `-I -S`, so that no `.pth` file of the environment runs. Reads a list of words, each
ended by NUL: for every module its source, the name that its code states, and the file to write.
"""

import contextlib
import os
import py_compile
import sys

WORDS = 3


def main() -> int:
    """Compile, with one process for each processor; what cannot be compiled is left out."""
    words = sys.stdin.buffer.read().split(b"\0")[:-1]
    modules = [words[start : start + WORDS] for start in range(0, len(words), WORDS)]
    workers = max(1, min(os.cpu_count() or 1, len(modules)))
    pids = []
    for number in range(workers):
        pid = os.fork()
        if pid == 0:
            _compile(modules[number::workers])
            os._exit(0)
        pids.append(pid)
    return max(os.waitpid(pid, 0)[1] for pid in pids)


def _compile(modules: list[list[bytes]]) -> None:
    for source, name, target in modules:
        # Packages contain templates, and modules of other Python versions.
        with contextlib.suppress(OSError, RecursionError, ValueError, SyntaxError):
            py_compile.compile(
                os.fsdecode(source),
                os.fsdecode(target),
                os.fsdecode(name),
                quiet=2,
                # Whatever the machine's SOURCE_DATE_EPOCH is.
                invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP,
            )


if __name__ == "__main__":
    sys.exit(main())
