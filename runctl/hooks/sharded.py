"""Sharded saves: every rank writes what it has, with torch.distributed.checkpoint.

    from runctl.hooks.sharded import load_sharded, save_sharded

    step = load_sharded(state) or 0
    while step < 10_000:
        ...
        save, stop = any_rank(training.should_save(every=300), training.should_stop())
        if save:
            save_sharded(state, step, keep=2)

All ranks call both functions at the same place. `state` is a dictionary of tensors, of objects with
a `state_dict`, or of values that can be pickled, as torch.distributed.checkpoint takes them. A run
that resumes with another number of ranks reads the same saves.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as torch_checkpoint

from runctl import training

METADATA = ".metadata"  # written last, by the first rank


def save_sharded(state: dict[str, Any], step: int, *, keep: int | None = None) -> Path:
    """Save a state together with all other ranks, and return the folder of this save.

    `keep` is how many saves are kept, including this one; None keeps all. Raises SaveError on every
    rank if one of them cannot write; the previous saves stay valid.
    """
    if step < 0 or (keep is not None and keep < 1):
        raise ValueError(f"step {step}, keep {keep}: step must be at least 0, and keep at least 1")
    began = time.monotonic()
    training.checkpoint_dir.mkdir(parents=True, exist_ok=True)
    # A folder is used once: an old `.metadata` would describe a half of the new files.
    name = _agree(training.next_name(step))
    target = training.checkpoint_dir / name
    try:
        torch_checkpoint.save(state, checkpoint_id=target)
    except Exception as exc:
        raise training.SaveError(
            f"step {step} was not saved to {target}: {exc or type(exc).__name__}; the previous "
            "checkpoint stays valid"
        ) from exc
    training.saved(step, seconds=time.monotonic() - began)
    if training.is_first_here:
        with contextlib.suppress(OSError):
            training.remove_older(target, step, keep=keep)
    return target


def load_sharded(state: dict[str, Any]) -> int | None:
    """Load the newest whole save into a state, in place; return its step, or None without one.

    Each rank reads what it needs, whatever the number of ranks that saved it.
    """
    saves = [found for found in training.checkpoints() if (found.path / METADATA).is_file()]
    step, _, name = _agree(f"{saves[0].step} {saves[0].path.name}" if saves else "").partition(" ")
    if not name:
        return None
    torch_checkpoint.load(state, checkpoint_id=training.checkpoint_dir / name)
    return int(step)


def _agree(text: str) -> str:
    """Return what the first rank says."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return text
    texts = [text]
    distributed.broadcast_object_list(texts, src=0)
    return texts[0]
