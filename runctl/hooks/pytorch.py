"""What a PyTorch program needs besides `runctl.training`: random states, and agreement of ranks."""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from runctl import training
from runctl.hooks.pulse import pulse


def random_state() -> dict[str, Any]:
    """Return the random states of Python, NumPy and PyTorch, in types that a safe load accepts."""
    version, words, gauss = random.getstate()
    state = {
        "python": [version, list(words), gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
    }
    if numpy := sys.modules.get("numpy"):
        kind, keys, *rest = numpy.random.get_state()
        state["numpy"] = [kind, keys.tolist(), *rest]
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the random states of a checkpoint."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    torch.set_rng_state(state["torch"].cpu())
    torch.cuda.set_rng_state_all([generator_state.cpu() for generator_state in state["cuda"]])
    if "numpy" in state and (numpy := sys.modules.get("numpy")):
        numpy.random.set_state(tuple(state["numpy"]))


def any_rank(*flags: bool) -> tuple[bool, ...]:
    """Return for each flag whether any rank has set it; all ranks call it at the same place.

    SIGTERM reaches the ranks at different steps, and requests reach only the first: a rank that
    acts alone leaves the others waiting in a collective call forever.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return flags
    if distributed.get_world_size() == 1:
        return flags
    votes = _votes_of(len(flags), "cuda" if distributed.get_backend() == "nccl" else "cpu")
    votes.copy_(torch.tensor(flags))
    pulse.begin()
    distributed.all_reduce(votes, op=distributed.ReduceOp.MAX)
    agreed = tuple(bool(vote) for vote in votes.tolist())
    pulse.end()
    return agreed


# A thread of Gloo releases the tensor of a call some time after the call has returned, for which it
# needs the interpreter. If that is ending, the process aborts: "terminate called without an active
# exception". Therefore the tensors are kept, and the end of the process waits for their release.
_votes: dict[tuple[int, str], torch.Tensor] = {}
_RELEASE_SECONDS = 10.0


def _votes_of(count: int, device: str) -> torch.Tensor:
    if not _votes:
        atexit.register(_wait_for_release)
    if (count, device) not in _votes:
        _votes[count, device] = torch.zeros(count, dtype=torch.int32, device=device)
    return _votes[count, device]


def _wait_for_release() -> None:
    until = time.monotonic() + _RELEASE_SECONDS
    unheld = _max_references({0: object()})
    while _max_references(_votes) > unheld and time.monotonic() < until:
        time.sleep(0.001)


def _max_references(kept: Mapping[Any, object]) -> int:
    return max(sys.getrefcount(value) for value in kept.values())


# Whether all ranks know that they stop, and whether `all_should_stop` has yet to return it.
_stop = _is_stop_agreed = False


def all_should_save(every: float | None = None) -> bool:
    """Return whether to save now, the same on all ranks; see `training.should_save`.

    All ranks call it once for each step, at the same place, before `all_should_stop`, which returns
    what is agreed here: a SIGTERM that arrives in between takes effect a step later, since the
    state of this step may not be saved.
    """
    global _is_stop_agreed
    save, stop = any_rank(training.should_save(every), training.should_stop())
    # The rank with the signal may have saved since it arrived, for another reason, a step ago.
    save |= stop and not _stop
    _note_stop(stop=stop)
    _is_stop_agreed = True
    return save


def all_should_stop() -> bool:
    """Return whether any rank was asked to stop, the same on all ranks: save, then exit.

    All ranks call it once for each step, at the same place. With one process it is
    `training.should_stop`.
    """
    global _is_stop_agreed
    if not _is_stop_agreed:
        (stop,) = any_rank(training.should_stop())
        _note_stop(stop=stop)
    _is_stop_agreed = False
    return _stop


def _note_stop(*, stop: bool) -> None:
    global _stop
    _stop = stop
    if stop:
        training.stop()


@contextlib.contextmanager
def process_group(backend: str | None = None, **options: Any) -> Iterator[None]:
    """Join the other ranks, and leave together with them; nothing to do with a single process.

    Without a `backend`, runctl chooses the one for this machine. `options` are those of
    `torch.distributed.init_process_group`. A rank that left early would break the connections that
    others still use. After an exception nobody is waited for.
    """
    if "RANK" not in os.environ:
        yield
        return
    backend = backend or os.environ.get("RUNCTL_BACKEND")
    torch.distributed.init_process_group(backend, **options)
    try:
        yield
    except SystemExit as exc:
        if not exc.code:
            _end_together()
        raise
    else:
        _end_together()


def _end_together() -> None:
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def measure(model: torch.nn.Module) -> None:
    """Measure how long this rank computes for each step, without waiting for the others.

    Call it once, before or after the model is wrapped for several ranks. runctl compares the nodes,
    and names one that is much slower. Without it, the time between two agreements counts, in which
    the gradients of all ranks are usually added: then all seem to be equally slow.
    """
    parameters = (parameter for parameter in model.parameters() if parameter.requires_grad)
    # Its gradient is the last that is ready: it belongs to the first layer.
    if (first := next(parameters, None)) is not None:
        # Parameters of a sharded model may be parts of others, which have no gradient.
        with contextlib.suppress(RuntimeError):
            first.register_post_accumulate_grad_hook(_note_computed)


def _note_computed(parameter: torch.Tensor) -> None:
    if parameter.is_cuda:
        if torch.cuda.is_current_stream_capturing():
            return
        # A GPU computes what it was given some time before.
        torch.cuda.current_stream(parameter.device).synchronize()
    pulse.note_computed()
