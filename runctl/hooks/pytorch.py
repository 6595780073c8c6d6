"""What a PyTorch program needs besides `runctl.training`: random states, and agreement of ranks."""

from __future__ import annotations

import random
import sys
from typing import Any

import torch


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
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    votes = torch.tensor(flags, dtype=torch.int32, device=device)
    distributed.all_reduce(votes, op=distributed.ReduceOp.MAX)
    return tuple(bool(vote) for vote in votes.tolist())
