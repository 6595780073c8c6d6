"""Kinds of run, and the policy by which the attempts of each follow one another.

Adding a kind is an entry of `KINDS`: the request accepts its name from then on.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class KindPolicy:
    """The rules that differ between kinds of run.

    `retries_failures`: failures of the program are retried as the request's `retry` says.
    `restarts_indefinitely`: the program is started again whenever it ends, whatever its exit code,
    until the run is stopped or its deadline passes; neither `max_attempts` nor a lack of progress
    ends the run. `may_overlap`: the next attempt's machine may be launched while the attempt before
    it drains, which costs a few minutes of a second machine and saves those of its boot.
    `becomes_ready`: the program is a server, which becomes ready. That of the next attempt may
    start while the attempt before it still has the fence, and a few attempts in a row without a
    ready server end the run. `done` is the reason of a run that is completed.
    """

    retries_failures: bool
    restarts_indefinitely: bool
    may_overlap: bool
    becomes_ready: bool = False
    done: str = "the trainer is done"


TRAIN = "train"
# The environment of the program is built and stored, and the program is not started.
ENVIRONMENT = "environment"
# The program is an HTTP server.
SERVE = "serve"
# A checkpoint is restored as an input, and the program reports how good it is.
EVALUATE = "evaluate"
# The program is called once for each part of its input, and what it writes is stored.
PROCESS = "process"
KINDS: dict[str, KindPolicy] = {
    TRAIN: KindPolicy(retries_failures=True, restarts_indefinitely=False, may_overlap=True),
    # The next attempt continues from what the one before has stored by its end.
    ENVIRONMENT: KindPolicy(
        retries_failures=False,
        restarts_indefinitely=False,
        may_overlap=False,
        done="the environment is stored",
    ),
    SERVE: KindPolicy(
        retries_failures=False, restarts_indefinitely=True, may_overlap=True, becomes_ready=True
    ),
    EVALUATE: KindPolicy(
        retries_failures=True,
        restarts_indefinitely=False,
        may_overlap=True,
        done="the evaluation is done",
    ),
    # A shard that fails has retries of its own, on the same instance.
    PROCESS: KindPolicy(
        retries_failures=False,
        restarts_indefinitely=False,
        may_overlap=True,
        done="all shards are done",
    ),
}


def policy_of(kind: str) -> KindPolicy:
    """Return the policy of a kind.

    A kind that only a newer version knows gets that of training: it keeps checkpoints and ends.
    """
    return KINDS.get(kind, KINDS[TRAIN])
