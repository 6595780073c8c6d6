"""Retention: the last few saves of a run are kept, and those that nothing has passed yet."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class StoredSave:
    """A stored checkpoint: the key of its manifest, and its step, or None if unknown."""

    key: str
    step: int | None


def choose_kept(
    saves: Sequence[StoredSave],
    *,
    keep: int,
    protected: Collection[str] = (),
    suspects: Collection[str] = (),
) -> list[str]:
    """Return the keys of the checkpoints that are kept, newest first, like `saves`.

    The newest is kept, as well as what is `protected`, and the best as long as the newest is behind
    it: a program that started over has not caught up yet. They count towards `keep`, and exceed it
    only if `keep` is smaller. The newest others fill the rest, suspects after all good ones.
    """
    if not saves:
        return []
    good = [save for save in saves if save.key not in suspects]
    stay = {saves[0].key, *(save.key for save in good if save.key in protected)}
    best = max((save.step for save in good if save.step is not None), default=None)
    if best is not None and (saves[0].step is None or saves[0].step < best):
        stay.add(next(save.key for save in good if save.step == best))
    for save in [*good, *(save for save in saves if save.key in suspects)]:
        if len(stay) >= keep:
            break
        stay.add(save.key)
    return [save.key for save in saves if save.key in stay]
