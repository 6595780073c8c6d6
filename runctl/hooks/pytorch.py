"""What the ranks of PyTorch's torch.distributed must agree on before they save or stop."""

from __future__ import annotations

import torch


def any_rank(*flags: bool) -> tuple[bool, ...]:
    """Return each flag as whether any rank has it set; all ranks call it at the same place.

    SIGTERM reaches the ranks at different steps, and requests only the first: who acts upon them
    alone leaves the others waiting in a collective call for ever.
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
