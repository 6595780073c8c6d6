"""The actual checkpoints of a run, and the trainers that start from them."""

from dataclasses import dataclass, field
from datetime import timedelta

from runctl.model.errors import FencedError
from runctl.policy.fallback import Death, DeathCause, in_order_of_trust, judge, may_fall_back
from runctl.policy.retention import StoredSave, choose_kept
from tests.control.fakes import World

KEEP_LAST = 2
AT_ONCE = timedelta(seconds=4)


@dataclass(frozen=True)
class Save:
    """A committed checkpoint; a trainer that starts from a torn one dies."""

    key: str
    step: int
    is_torn: bool
    chain: tuple[str, ...]


@dataclass
class Trainer:
    """The trainers of one attempt, one after another on its machine.

    `is_broken` is a program that dies after every restore on this machine.
    """

    attempt: int
    step: int = 0
    given: str | None = None
    is_broken: bool = False
    has_continued: bool = False
    deaths: list[Death] = field(default_factory=list)
    tried: frozenset[str] = frozenset()
    marked: frozenset[str] = frozenset()
    chain: tuple[str, ...] = ()


class StoredSaves:
    """The stored checkpoints, and what agents do with them according to the ledger."""

    def __init__(self, world: World, run_id: str) -> None:
        self.ledger = world.ledger
        self.clock = world.clock
        self.run_id = run_id
        self.stored: dict[str, Save] = {}
        self.all: dict[str, Save] = {}
        self.proven_steps: list[int] = []

    def start(self, attempt: int) -> Trainer:
        """Start the first trainer of an attempt."""
        trainer = Trainer(attempt)
        self._give(trainer, self._offered(trainer.tried))
        return trainer

    def dies(self, trainer: Trainer) -> bool:
        """Return whether the trainer dies from its checkpoint."""
        if trainer.has_continued or not trainer.given:
            return False
        return trainer.is_broken or self.stored[trainer.given].is_torn

    def fall_back(self, trainer: Trainer, *, noticed: bool) -> str:
        """Fall back after such a death, as the agent does; return the attempt's end, if any."""
        run = self.ledger.find_run(self.run_id)
        certain = trainer.given is None or trainer.given == run.proven
        died = Death(exit_code=1, failure_id="died", lived=AT_ONCE, is_certain=certain)
        trainer.deaths.append(died)
        cause = judge(trainer.deaths)
        if cause is DeathCause.CHECKPOINT:
            if trainer.given not in run.suspects:
                self.ledger.mark_suspect(self.run_id, trainer.attempt, trainer.given)
                trainer.marked |= {trainer.given}
            trainer.tried |= {trainer.given}
            if noticed:
                return "interrupted"
            before = self._offered(trainer.tried)
            is_first = not self.stored[trainer.given].chain
            if may_fall_back(trainer.deaths) and (before or is_first):
                self._give(trainer, before)
                return ""
        self.ledger.clear_suspects(self.run_id, trainer.attempt, trainer.marked)
        return "failed"

    def commit(self, trainer: Trainer, *, is_torn: bool = False) -> bool:
        """Save the trainer's state, and return whether the ledger accepted it."""
        run = self.ledger.find_run(self.run_id)
        save = run.save + 1
        made = Save(f"s{save:09d}-{trainer.attempt:04d}", trainer.step, is_torn, trainer.chain)
        try:
            self.ledger.commit_checkpoint(
                self.run_id,
                trainer.attempt,
                step=made.step,
                save=save,
                manifest=made.key,
                progressed=True,
                now=self.clock.now(),
            )
            self.stored[made.key] = self.all[made.key] = made
            if trainer.given and not trainer.has_continued:
                self.ledger.mark_proven(self.run_id, trainer.attempt, trainer.given)
                self.proven_steps.append(self.all[trainer.given].step)
            trainer.has_continued = True
        except FencedError:
            return False
        self._remove_old(trainer)
        return True

    def check(self) -> None:
        """Assert what is true at every moment."""
        run = self.ledger.find_run(self.run_id)
        if run is None:
            return
        assert self.proven_steps == sorted(self.proven_steps), "progress went back"
        assert run.proven is None or run.proven in self.stored, "the proven one was removed"
        assert run.proven not in run.suspects
        assert run.proven is None or not self.stored[run.proven].is_torn
        assert run.newest is None or run.newest in self.stored

    def _offered(self, tried: frozenset[str]) -> str | None:
        run = self.ledger.find_run(self.run_id)
        if run.newest is None:
            return None
        known = {run.newest, *self.stored[run.newest].chain, run.proven} & self.stored.keys()
        offered = in_order_of_trust(known, suspects=run.suspects, tried=tried)
        if offered and offered[0] in run.suspects:
            assert not known - tried - run.suspects, "a suspect while a good one exists"
        return offered[0] if offered else None

    def _give(self, trainer: Trainer, key: str | None) -> None:
        run = self.ledger.find_run(self.run_id)
        made = self.stored[key] if key else None
        trainer.given = key
        trainer.step = made.step if made else 0
        trainer.chain = (made.key, *made.chain)[:KEEP_LAST] if made else ()
        if run.proven is not None and not (made and made.is_torn):
            assert trainer.step >= self.all[run.proven].step, "it starts before a proven one"

    def _remove_old(self, trainer: Trainer) -> None:
        run = self.ledger.find_run(self.run_id)
        newest_first = sorted(self.stored.values(), key=lambda made: made.key, reverse=True)
        kept = choose_kept(
            [StoredSave(made.key, made.step) for made in newest_first],
            keep=KEEP_LAST,
            protected={run.proven} - {None},
            suspects=run.suspects,
        )
        self.stored = {key: made for key, made in self.stored.items() if key in kept}
        trainer.chain = tuple(kept)


def report_of(trainer: Trainer, kind: str, **details) -> dict:
    """Return the report of an attempt."""
    return {"outcome": {"kind": kind, "reason": "", "step": trainer.step, **details}}
