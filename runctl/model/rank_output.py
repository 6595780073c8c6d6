"""What explains a failure in the output of several ranks and of torchrun, their launcher. Pure.

The exception of one rank is the cause, and those of the others follow from it within milliseconds.
They are printed in any order, and torchrun's own report, which is longer than an excerpt, at last.
torch marks each line of a rank's traceback with `[rankN]: ` while the rank is in a process group.
"""

import re

# What ranks print when another one has died.
CONSEQUENCES = (
    "Broken pipe",
    "Connection closed by peer",
    "Connection reset by peer",
    "ncclRemoteError",
    "remote process exited",
)
_REPORT = re.compile(
    r"^Traceback \(most recent call last\):\n(?:[ \t][^\n]*\n)*"
    r"torch\.distributed\.elastic\.multiprocessing\.errors\.ChildFailedError:.*\Z",
    re.MULTILINE | re.DOTALL,
)
_ROOT_CAUSE = re.compile(
    r"^Root Cause \(first observed failure\):$.*?"
    r"^ +rank +: (\d{1,6}) .*?^ +exitcode +: (-?\d{1,6})",
    re.MULTILINE | re.DOTALL,
)
_FAILED = re.compile(r"^E\d{4} [^\n]*torch/distributed/elastic/[^\n]*failed \(exitcode: .*$", re.M)
_LOG = re.compile(r"^[EIW]\d{4} [^\n]*torch/distributed/elastic/[^\n]*(?:\n|\Z)", re.M)
# After the mark, the libraries of torch print lines of their own, which begin with a bracket.
_OF_RANK = re.compile(r"^\[rank(\d{1,6})\]:(?: .*)?$")


def explain_failure(output: str) -> str:
    """Return the part of a failed program's output that explains the failure.

    Of several ranks that is the traceback of the one that failed first. Where it has printed none,
    torchrun's report says which one that was and how it ended. Other output is returned as it is.
    """
    report = _REPORT.search(output)
    printed = output if report is None else output[: report.start()]
    tracebacks = _tracebacks(_last_round(printed))
    if report is None and not _ends_with_a_rank(printed):
        return output
    for lines in tracebacks.values():
        if not _follows(lines):
            return "\n".join(lines)
    cause = _root_cause(output)
    if cause is None:
        return _LOG.sub("", printed)
    rank, code = cause
    if rank in tracebacks:
        return "\n".join(tracebacks[rank])
    others = [line for line in _LOG.sub("", printed).split("\n") if not _OF_RANK.match(line)]
    end = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
    return "\n".join([*others, f"rank {rank}: {end}"])


def exit_code_of_rank(output: str) -> int | None:
    """Return the exit code of the rank that failed first, negative for a signal.

    torchrun itself exits with 1 whatever that is. The result is None without its report.
    """
    cause = _root_cause(output)
    return None if cause is None else cause[1]


def follows_from_another(words: str) -> bool:
    """Whether a failure only says that a rank has lost another one."""
    return any(text in words for text in CONSEQUENCES)


def _root_cause(output: str) -> tuple[int, int] | None:
    report = _REPORT.search(output)
    cause = None if report is None else _ROOT_CAUSE.search(report[0])
    return None if cause is None else (int(cause[1]), int(cause[2]))


def _follows(lines: list[str]) -> bool:
    return follows_from_another("\n".join(lines))


def _last_round(printed: str) -> str:
    """Return what was printed since torchrun last started the ranks again, if it did."""
    failures = list(_FAILED.finditer(printed))
    return printed[failures[-2].end() :] if len(failures) > 1 else printed


def _tracebacks(printed: str) -> dict[int, list[str]]:
    """Return the marked lines by rank, in the order in which the ranks have begun."""
    found: dict[int, list[str]] = {}
    for line in printed.split("\n"):
        if match := _OF_RANK.match(line):
            found.setdefault(int(match[1]), []).append(line)
    return found


def _ends_with_a_rank(printed: str) -> bool:
    return bool(_OF_RANK.match(printed.rstrip().rpartition("\n")[2]))
