"""Descriptions of a run and its attempts in words, for any display."""

from collections.abc import Sequence
from datetime import datetime

from runctl.model.checkpoint import name_of
from runctl.model.run import Attempt, AttemptStage, Run
from runctl.model.saving import Saving
from runctl.report.documents import failures, interruptions, unfinished_final_saves
from runctl.report.reasons import brief
from runctl.report.wording import format_size, say_duration, say_instant, say_short

NOTHING = "–"
# From this number on, missed final saves are no accident.
_REPEATED = 2


def describe_attempt(attempt: Attempt) -> str:
    """Describe the state of an attempt; the text changes only when the state does."""
    where = f" on {attempt.pool}" if attempt.pool else ""
    if attempt.ended is not None:
        kind = attempt.ended.kind.value.replace("_", " ")
        return f"{kind}: {brief(attempt.ended.reason)}" if attempt.ended.reason else kind
    if attempt.noticed_at is not None:
        return f"has an interruption notice{where} and drains"
    if attempt.stage is AttemptStage.RUNNING and "started" in attempt.timeline:
        return f"trains{where} from {_start_of(attempt)}"
    if attempt.stage is AttemptStage.LAUNCHING:
        return f"requests an instance: {attempt.plan}" if attempt.plan else "requests an instance"
    return f"prepares{where}"


def _start_of(attempt: Attempt) -> str:
    if attempt.resume_step is None and not attempt.resume_save:
        return "the beginning"
    return name_of(attempt.resume_step, attempt.resume_save)


def next_launch_text(attempts: Sequence[Attempt], *, now: datetime) -> str:
    """Return when the next launch is planned; empty if the run does not wait for one."""
    ended = attempts[-1].ended if attempts else None
    if ended is None or ended.retry_at is None or ended.retry_at <= now:
        return ""
    return f"{say_instant(ended.retry_at)}, in {say_duration(ended.retry_at - now)}"


def checkpoint_text(run: Run, *, now: datetime) -> str:
    """Describe the newest checkpoint and its age."""
    if run.newest is None or run.committed_at is None:
        return "none yet" if run.ended is None else "none"
    return f"{name_of(run.step, run.save)}, {say_duration(now - run.committed_at)} ago"


def saving_texts(attempts: Sequence[Attempt]) -> list[tuple[str, str]]:
    """Describe, each with a label, the newest live attempt's save interval and last save.

    What is not known is left out.
    """
    known = [
        attempt.saving
        for attempt in attempts
        if attempt.ended is None and attempt.saving is not None
    ]
    if not known:
        return []
    saving = known[-1]
    return [
        (label, text)
        for label, text in (("interval", _interval(saving)), ("last save", _last_save(saving)))
        if text
    ]


def final_saves_text(attempts: Sequence[Attempt]) -> str:
    """Describe the final saves that missed their grace period, with a remedy after several."""
    missed = unfinished_final_saves(attempts)
    if not missed:
        return ""
    numbers = ", ".join(str(attempt.number) for attempt in missed)
    attempts_text = f"attempt{'' if len(missed) == 1 else 's'} {numbers}"
    text = f"{len(missed)} did not finish within the grace period ({attempts_text})"
    given = missed[-1].saving
    if len(missed) < _REPEATED or given is None or given.missed_grace is None:
        return text
    return (
        f"{text}: the last one had {say_short(given.missed_grace)}; raise "
        "checkpoint.grace_seconds (at most 90), save less at the end, or save more often"
    )


def _interval(saving: Saving) -> str:
    if saving.every is None:
        return ""
    every = f"every {say_short(saving.every)}"
    if saving.is_fixed:
        return f"{every}, as requested"
    if saving.cost is None or saving.uptime is None:
        return f"{every}, until the first save shows the cost of a save"
    return (
        f"{every}: a save costs {say_short(saving.cost)}, "
        f"an interruption every {say_short(saving.uptime)} is expected"
    )


def _last_save(saving: Saving) -> str:
    if saving.size_bytes is None:
        return ""
    what = format_size(saving.size_bytes)
    if saving.bytes_per_second is not None:
        what += f" at {format_size(saving.bytes_per_second)}/s"
    if saving.last_save is None or saving.notice is None:
        return what
    fits = "fits" if saving.fits_notice else "does not fit"
    return (
        f"{what} {fits} into a notice: {say_short(saving.last_save)} of {say_short(saving.notice)}"
    )


def metrics_text(attempt: Attempt) -> str:
    """Describe the last values that the trainer reported, without its step."""
    values = ((name, value) for name, value in attempt.metrics.items() if name != "step")
    return " · ".join(f"{name} {_number(value)}" for name, value in values)


def _number(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def doing(attempt: Attempt) -> str:
    """Return what a live attempt is doing: its phase, once the agent has reported one."""
    if attempt.stage is AttemptStage.LAUNCHING or not attempt.phase:
        return "booting" if attempt.stage is AttemptStage.LAUNCHED else attempt.stage.value
    return attempt.phase


def steps_text(attempt: Attempt) -> str:
    """Return the steps at which an attempt began and which it has reached, such as 150 → 400."""
    if not attempt.was_launched:
        return NOTHING
    is_fresh = attempt.resume_step is None and not attempt.resume_save
    start = "start" if is_fresh else short_name(attempt.resume_step, attempt.resume_save)
    last = attempt.ended.step if attempt.ended is not None else None
    known = [step for step in (attempt.progress_step, last) if step is not None]
    if known:
        return f"{start} → {max(known)}"
    save = attempt.ended.save if attempt.ended is not None else None
    return f"{start} → {'…' if not save else short_name(None, save)}"


def short_name(step: int | None, save: int | None) -> str:
    """Name a checkpoint in a column of steps."""
    return f"save {save or 0}" if step is None else str(step)


def took_text(attempt: Attempt, *, now: datetime) -> str:
    """Return how long an attempt has taken since its launch."""
    if attempt.launched_at is None:
        return NOTHING
    return say_duration((attempt.ended_at or now) - attempt.launched_at)


def counts_text(attempts: Sequence[Attempt]) -> list[str]:
    """Describe how often instances were interrupted and how often the trainer itself failed."""
    counts = {"interruption": interruptions(attempts), "failure": failures(attempts)}
    return [f"{count} {noun}{'s' if count > 1 else ''}" for noun, count in counts.items() if count]
