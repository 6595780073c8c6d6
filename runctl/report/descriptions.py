"""Descriptions of the facts of a run in words, for any display."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runctl.model.checkpoint import name_of
from runctl.model.image import Image
from runctl.model.kinds import EVALUATE, PROCESS, SERVE
from runctl.model.result_metrics import flat_metrics
from runctl.model.run import AttemptStage
from runctl.model.saving import Saving
from runctl.model.shard_progress import ShardProgress
from runctl.report.cost import Cost
from runctl.report.gang_descriptions import (
    notice_text,
    place_text,
    reason_text,
    request_text,
)
from runctl.report.group_time import GroupTime
from runctl.report.machine_time import MachineTime
from runctl.report.run_document import RunDocument
from runctl.report.run_list import RunEntry
from runctl.report.timeline import AttemptEntry
from runctl.report.wording import (
    format_count,
    format_duration,
    format_instant,
    format_short_duration,
    format_size,
)

NOTHING = "–"
# From this number on, unfinished final saves are not an accident.
_REPEATED = 2
_BAR_LENGTH = 20


def attempt_text(attempt: AttemptEntry, *, kind: str) -> str:
    """Describe the state of an attempt of a run; the text changes only when the state does."""
    where = place_text(attempt)
    if attempt.kind is not None:
        outcome, reason = attempt.kind.value.replace("_", " "), reason_text(attempt)
        return f"{outcome}: {reason}" if reason else outcome
    if attempt.service is not None:
        return _service_state(attempt, where)
    if attempt.noticed_at is not None:
        return notice_text(attempt)
    if attempt.is_training and kind == PROCESS:
        return f"processes shards{where}"
    if attempt.is_training and kind == SERVE:  # the first report about the server follows
        return f"starts its server{where}"
    if attempt.is_training:
        start = name_of(attempt.resume_step, attempt.resume_save)
        verb = "evaluates" if kind == EVALUATE else "trains"
        return f"{verb}{where} from {'the beginning' if attempt.is_from_beginning else start}"
    if attempt.stage is AttemptStage.LAUNCHING:
        return request_text(attempt)
    if not (attempt.is_launched or attempt.phase):
        return f"is assigned to {', '.join(attempt.instance_ids)}"
    return f"prepares{where}"


def _service_state(attempt: AttemptEntry, where: str) -> str:
    if attempt.phase == "drain":
        return f"answers what it has accepted{where}, and ends"
    if attempt.noticed_at is not None and attempt.is_ready:
        return f"has an interruption notice{where}, and serves until its replacement is ready"
    return f"serves{where}" if attempt.is_ready else f"starts its server{where}"


def service_text(run: RunDocument) -> str:
    """Describe the servers of a service that are ready; empty for any other run."""
    if not run.is_service:
        return ""
    ready = [
        f"attempt {attempt.number} on port {attempt.service.port}, since "
        f"{format_instant(attempt.service.since)}"
        for attempt in run.timeline
        if attempt.is_ready and attempt.service is not None
    ]
    if ready:
        return f"ready: {'; '.join(ready)}"
    return "" if run.entry.has_ended else "not ready"


def inputs_text(attempt: AttemptEntry | None) -> str:
    """Show how much of the inputs an attempt has while they are staged, with a bar; or nothing."""
    staging = None if attempt is None or not attempt.is_live else attempt.staging
    if staging is None or staging.done_bytes >= staging.total_bytes:
        return ""
    done, total = format_size(staging.done_bytes), format_size(staging.total_bytes)
    return f"{_bar(staging.done_bytes, staging.total_bytes)} {done} of {total}"


def shards_text(run: RunDocument) -> str:
    """Show how many shards are done, with a bar, the rate and the remaining time; or nothing."""
    if run.shards is None:
        return ""
    return describe_shards(run.shards, has_ended=run.entry.has_ended)


def describe_shards(shards: ShardProgress, *, has_ended: bool) -> str:
    """Show how many shards are done, with a bar; while they are processed also how fast."""
    parts = [f"{shards.done} of {shards.total}"]
    parts += [f"{shards.failed} failed"] if shards.failed else []
    if not has_ended and shards.per_second and shards.ended < shards.total:
        parts.append(_rate(shards.per_second))
        parts += [f"{format_duration(shards.left)} left"] if shards.left is not None else []
    return f"{_bar(shards.ended, shards.total)} {', '.join(parts)}"


def _bar(done: int, total: int) -> str:
    filled = min(done, total) * _BAR_LENGTH // total
    return f"[{'#' * filled}{'-' * (_BAR_LENGTH - filled)}]"


def _rate(per_second: float) -> str:
    if per_second >= 1:
        return f"{per_second:.3g} a second"
    if per_second * 60 >= 1:
        return f"{per_second * 60:.3g} a minute"
    return f"{per_second * 3600:.3g} an hour"


def image_text(image: Image | None) -> str:
    """Describe the image of a run: what was pulled or loaded, its platform and size."""
    if image is None:
        return ""
    size = f"{format_size(image.size_bytes)} compressed" if image.size_bytes else ""
    return ", ".join(filter(None, (image.reference or image.archive, image.platform, size)))


def attempt_reason(attempt: AttemptEntry) -> str:
    """Return why an attempt ended, or while it is launching the plan of its launch."""
    if attempt.is_live:
        return attempt.plan if attempt.stage is AttemptStage.LAUNCHING else ""
    return reason_text(attempt)


def next_launch_text(run: RunDocument) -> str:
    """Return when the next launch is planned; empty if the run does not wait for one."""
    retry_at = run.next_launch_at
    if retry_at is None:
        return ""
    return f"{format_instant(retry_at)}, in {format_duration(retry_at - run.read_at)}"


def checkpoint_name(entry: RunEntry) -> str:
    """Name the newest checkpoint of a run, such as step 450; empty without one."""
    return name_of(entry.step, entry.save) if entry.has_checkpoint else ""


def checkpoint_text(run: RunDocument) -> str:
    """Describe the newest checkpoint and its age; empty for a run that is not expected to save."""
    if run.is_service:
        return ""
    if run.entry.kind in {EVALUATE, PROCESS} and not run.entry.has_checkpoint:
        return ""
    if not run.entry.has_checkpoint or run.committed_at is None:
        return "none" if run.entry.has_ended else "none yet"
    return f"{checkpoint_name(run.entry)}, {format_duration(run.read_at - run.committed_at)} ago"


def saving_texts(cost: Cost) -> list[tuple[str, str]]:
    """Describe the save interval and the last save, each with a label, as far as they are known."""
    if cost.saving is None:
        return []
    return [
        (label, text)
        for label, text in (
            ("interval", _interval(cost.saving)),
            ("last save", _last_save(cost.saving)),
        )
        if text
    ]


def final_saves_text(cost: Cost) -> str:
    """Describe the final saves that did not finish, with a remedy after several."""
    unfinished = cost.unfinished_final_saves
    if not unfinished:
        return ""
    numbers = ", ".join(map(str, unfinished))
    attempts = f"attempt{'' if len(unfinished) == 1 else 's'} {numbers}"
    text = f"{len(unfinished)} did not finish within the grace period ({attempts})"
    if len(unfinished) < _REPEATED or cost.last_grace is None:
        return text
    return (
        f"{text}: the last one had {format_short_duration(cost.last_grace)}; raise "
        "checkpoint.grace_seconds (at most 90), save less at the end, or save more often"
    )


def _interval(saving: Saving) -> str:
    if saving.every is None:
        return ""
    every = f"every {format_short_duration(saving.every)}"
    if saving.is_fixed:
        return f"{every}, as requested"
    if saving.cost is None or saving.uptime is None:
        return f"{every}, until the first save shows the cost of a save"
    return (
        f"{every}: a save costs {format_short_duration(saving.cost)}, "
        f"an interruption every {format_short_duration(saving.uptime)} is expected"
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
    needed, given = format_short_duration(saving.last_save), format_short_duration(saving.notice)
    return f"{what} {fits} into a notice: {needed} of {given}"


def machine_time_text(time: MachineTime) -> str:
    """Describe machine time by market, such as 5h 19m spot, 49m 00s on-demand."""
    return ", ".join(f"{format_duration(spent)} {market}" for market, spent in time.items())


def group_time_text(time: GroupTime) -> str:
    """Describe the machine time of a group, with the time in which its instances waited."""
    runs, waiting = machine_time_text(time.runs), machine_time_text(time.waiting)
    texts = filter(None, (runs, waiting and f"{waiting} waiting for further runs"))
    return ", and ".join(texts)


def failures_text(cost: Cost) -> str:
    """Describe the failures of the program; empty if there were none."""
    limit = f"; up to {cost.max_failures} are retried" if cost.max_failures else ""
    return f"{cost.failures} of the program{limit}" if cost.failures else ""


def metrics_text(metrics: Mapping[str, float]) -> str:
    """Describe the last values that the trainer reported, without its step."""
    values = ((name, value) for name, value in metrics.items() if name != "step")
    return " · ".join(f"{name} {_number(value)}" for name, value in values)


def result_text(metrics: Mapping[str, Any]) -> str:
    """Describe the metrics of a run's result."""
    values = flat_metrics(metrics).items()
    return " · ".join(f"{name} {metric_text(value)}" for name, value in values)


def metric_text(value: Any) -> str:
    """Return a metric as people read it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _number(value) if isinstance(value, int | float) else str(value)


def _number(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def steps_text(attempt: AttemptEntry) -> str:
    """Return the steps at which an attempt began and which it has reached, such as 150 → 400.

    Those of a processing run are the numbers of its shards.
    """
    if not attempt.instance_ids or attempt.service is not None:
        return NOTHING
    if attempt.shards is not None:
        return f"{attempt.shards.found} → {attempt.shards.ended}"
    fresh = attempt.is_from_beginning
    start = "start" if fresh else short_name(attempt.resume_step, attempt.resume_save)
    if attempt.reached_step is not None:
        return f"{start} → {attempt.reached_step}"
    return f"{start} → {short_name(None, attempt.last_save) if attempt.last_save else '…'}"


def short_name(step: int | None, save: int | None) -> str:
    """Name a checkpoint in a column of steps."""
    return f"save {save or 0}" if step is None else str(step)


def took_text(attempt: AttemptEntry) -> str:
    """Return how long an attempt has taken since its launch."""
    return NOTHING if attempt.took is None else format_duration(attempt.took)


def counts_text(cost: Cost) -> list[str]:
    """Describe how often instances were interrupted and how often the trainer itself failed."""
    counts = {"interruption": cost.interruptions, "failure": cost.failures}
    return [format_count(count, noun) for noun, count in counts.items() if count]
