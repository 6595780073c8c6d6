"""Variables of the trainer contract, and references to them in arguments.

Arguments reach the program unchanged, without a shell: only `$RUNCTL_NAME` and `${RUNCTL_NAME}`
are replaced, and `$$RUNCTL_NAME` is an escape for the literal text.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

CONTRACT_VARIABLES = (
    "RUNCTL_RUN_ID",
    "RUNCTL_ATTEMPT",
    "RUNCTL_RESUME_STEP",
    "RUNCTL_CHECKPOINT_DIR",
    "RUNCTL_PARTIAL_DIR",
    "RUNCTL_INPUT_DIR",
    "RUNCTL_OUTPUT_DIR",
    "RUNCTL_SHARD",
    "RUNCTL_SHARDS",
    "RUNCTL_METRICS_FILE",
    "RUNCTL_TENSORBOARD_DIR",
    "RUNCTL_EVALUATED_STEP",
    "RUNCTL_CHECKPOINT_REQUEST",
    "RUNCTL_SAVED_FILE",
    "RUNCTL_PORT",
    "RUNCTL_TRIAL",
    "RUNCTL_HYPERPARAMETERS",
    "RUNCTL_NODE_RANK",
    "RUNCTL_NODES",
    "RUNCTL_BACKEND",
    "RUNCTL_PULSE_DIR",
)

_REFERENCE = re.compile(r"(?P<escape>\$?)\$(?:\{(?P<braced>RUNCTL_\w+)\}|(?P<bare>RUNCTL_\w+))")
_OF_A_SHELL = re.compile(r"\$\{RUNCTL_\w*[^}\w][^}]*\}?")


def expand(words: Iterable[str], variables: Mapping[str, str]) -> list[str]:
    """Replace references to the contract's variables; a variable that is not set is empty."""

    def value(found: re.Match[str]) -> str:
        name = found["braced"] or found["bare"]
        if found["escape"] or name not in CONTRACT_VARIABLES:
            return found[0].removeprefix(found["escape"])
        return variables.get(name, "")

    return [_REFERENCE.sub(value, word) for word in words]


def problem_with_references(words: Sequence[str]) -> str:
    """Return which reference would not be replaced, and the remedy; empty if all would be."""
    for word in words:
        if found := _OF_A_SHELL.search(word):
            return (
                f"{found[0]!r}: no shell reads the arguments; write ${{RUNCTL_NAME}}, and put "
                "arguments that need a checkpoint into resume_args (--resume-args)"
            )
        for found in _REFERENCE.finditer(word):
            name = found["braced"] or found["bare"]
            if found["escape"] or name in CONTRACT_VARIABLES:
                continue
            close = difflib.get_close_matches(name, CONTRACT_VARIABLES, n=1)
            hint = f"did you mean ${close[0]}?" if close else "see docs/reference/trainer.md"
            return (
                f"${name} is not a variable of the trainer contract; {hint} "
                f"write $${name} for the literal text"
            )
    return ""
