"""Which of a run's checkpoints stay: the last few saves, and those that nothing has passed yet."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class StoredSave:
    """A checkpoint that is stored: the key of its manifest, and its step, None if not known."""

    key: str
    step: int | None


def choose_kept(
    saves: Sequence[StoredSave],
    *,
    keep: int,
    protected: Collection[str] = (),
    suspects: Collection[str] = (),
) -> list[str]:
    """Return the keys of the checkpoints that stay, the newest first; `saves` are in that order.

    The newest stays, what is `protected`, and the best as long as the newest is behind it: a
    program that started anew has not made up for it. They count among the `keep` that stay, and
    are more only if `keep` is less. The newest others fill up, suspects after all good ones.
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
