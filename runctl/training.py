"""The trainer's side of the contract: stop in time, save whole, resume, report. No dependencies.

    from runctl import training

    state, step = new_state(), 0
    if found := training.restore():
        state, step = read(found.path), found.step
    while step < 10_000 and not training.should_stop():
        state, step = train(state), step + 1
        training.report(step, loss=state.loss)
        if training.should_save(every=300):
            training.save(lambda path: write(state, path), step)
    training.save(lambda path: write(state, path), step)

Without runctl, a program does the same on its own: it saves to ./checkpoints and reports to
./metrics.jsonl. Of several ranks, only the first saves and reports.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple


def _path(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or default).absolute()


def _number(*variables: str) -> int | None:
    texts = (os.environ.get(variable, "") for variable in variables)
    return next((int(text) for text in texts if text.isdigit()), None)


checkpoint_dir: Path = _path("RUNCTL_CHECKPOINT_DIR", "checkpoints")
input_dir: Path = _path("RUNCTL_INPUT_DIR", "inputs")
output_dir: Path = _path("RUNCTL_OUTPUT_DIR", "outputs")
run_id: str = os.environ.get("RUNCTL_RUN_ID") or "local"
attempt: int = _number("RUNCTL_ATTEMPT") or 1
# The step of the checkpoint that existed at the start, or None.
resume_step: int | None = _number("RUNCTL_RESUME_STEP")
# What an unfinished save has left behind, or None.
partial_dir: Path | None = (
    _path("RUNCTL_PARTIAL_DIR", "") if os.environ.get("RUNCTL_PARTIAL_DIR") else None
)
# Whether this process is the rank that saves and reports. LOCAL_RANK is 0 on each of several nodes.
_rank = _number("RANK")
is_main: bool = not (_number("LOCAL_RANK") or _number("NODE_RANK")) if _rank is None else _rank == 0
# Whether it is the first on its machine, which has a checkpoint folder of its own.
is_first_here: bool = not (_number("LOCAL_RANK", "RANK") or 0)

_METRICS = _path("RUNCTL_METRICS_FILE", "metrics.jsonl")
_SAVED = os.environ.get("RUNCTL_SAVED_FILE")
_REQUEST = os.environ.get("RUNCTL_CHECKPOINT_REQUEST")
# A step that is saved again gets a letter, so that the previous save stays until the new one is
# whole.
_NAME = re.compile(r"step-(\d{9,})([b-z]?[a-z]*)(\..*)?")


class SaveError(OSError):
    """A checkpoint could not be saved; the previous one stays valid."""


class Checkpoint(NamedTuple):
    """A whole checkpoint: a file, or a folder."""

    path: Path
    step: int


# Stopping ---------------------------------------------------------------------------------------

_stop = False
_before: Any = signal.SIG_DFL  # the handler that ours replaced
_forwarding = False
_masks: dict[int, Any] | None = None  # of the threads that are about to fork, once we listen


def should_stop() -> bool:
    """Return whether SIGTERM has arrived: save, then exit.

    The first call, in the main thread, begins to listen; until then, SIGTERM has its previous
    effect. A handler that the program has, or sets later, is called, too. In a worker process of a
    data loader or a pool the result is always False, and SIGTERM ends the worker as usual.
    """
    workers = sys.modules.get("multiprocessing.process")
    if workers is not None and workers.current_process().daemon:
        return False
    if signal.getsignal(signal.SIGTERM) is not _on_sigterm:
        listen()
    return _stop


def stop() -> None:
    """Stop this process as SIGTERM would: another of its ranks has received it."""
    global _stop
    _stop = True


def listen(*, forward: bool = True) -> None:
    """Begin to listen for SIGTERM, and call the previous handler, too, unless `forward` is False.

    Only the main thread can; in another thread this does nothing.
    """
    global _before, _masks
    there = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or there is _on_sigterm:
        return
    if _masks is None:
        _masks = {}
        os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_forget)
    if forward:
        _before = there
    signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(number: int, frame: Any) -> None:
    global _stop, _forwarding
    if not _stop and _SAVED:
        # If something other than runctl sent it, this run counts as interrupted, not completed.
        _append(Path(_SAVED), {"signal": "SIGTERM"})
    _stop = True
    # A handler that replaced this one, and calls it, must not be called by it in turn.
    if callable(_before) and not _forwarding:
        _forwarding = True
        try:
            _before(number, frame)
        finally:
            _forwarding = False


# A forked child inherits the handler, but not the loop that checks: it must behave as if we were
# absent. A signal between the fork and that moment would be lost, so it is blocked.


def _hold() -> None:
    if _masks is not None:
        _masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _release() -> None:
    if _masks is not None and (mask := _masks.pop(threading.get_ident(), None)) is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _forget() -> None:
    global _stop
    _stop = False
    if signal.getsignal(signal.SIGTERM) is _on_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if _before is None else _before)
    _release()


# Saving -----------------------------------------------------------------------------------------

_read_request = _answered = ""
_saved_at = time.monotonic()
_saved_for_stop = False
_beside = False  # whether saves can be written next to the folder before they are whole


def checkpoint_requested() -> bool:
    """Return whether runctl has asked for a checkpoint since the last save began."""
    return _request() not in ("", _answered)


def should_save(every: float | None = None) -> bool:
    """Return whether to save now: on request, after SIGTERM, or after `every` seconds."""
    due = every is not None and time.monotonic() - _saved_at >= every
    return due or checkpoint_requested() or (should_stop() and not _saved_for_stop)


def save(
    write: Callable[[Path], object], step: int, *, suffix: str = "", keep: int | None = None
) -> Path | None:
    """Let `write` write a checkpoint, put it in place when it is whole, and return its path.

    `write` gets a path that does not exist, whose name ends in `suffix`, and creates a file or a
    folder there. It appears in `checkpoint_dir` only when it is complete and on the disk. `keep` is
    how many checkpoints are kept, including this one; None keeps all. On a rank other than the
    first, this does nothing and returns None.

    Raises SaveError if it cannot be written; the previous checkpoints stay valid.
    """
    if step < 0 or (keep is not None and keep < 1):
        raise ValueError(f"step {step}, keep {keep}: step must be at least 0, and keep at least 1")
    began, asked, stopping = time.monotonic(), _request(), _stop
    if not is_main:
        _note_saved(asked=asked, stopping=stopping)  # its next save is due as late as theirs
        return None
    try:
        with _scratch() as scratch:
            write(scratch / f"step-{step:09d}{suffix}")
            made = _only_entry(scratch)
            _sync(made)
            target = _put_in_place(made, step)
            _sync(checkpoint_dir, below=False)
            _remove_old(target, step, keep, scratch)
    except Exception as exc:
        raise SaveError(
            f"step {step} was not saved to {checkpoint_dir}: {exc or type(exc).__name__}; "
            "the previous checkpoint stays valid"
        ) from exc
    _announce(step, time.monotonic() - began, asked=asked, stopping=stopping)
    return target


def saved(step: int, *, seconds: float = 0.0) -> None:
    """Report that a save made without `save` is complete, so that it is uploaded at once.

    Every rank may call it: the first of each machine reports.
    """
    if is_first_here:
        _announce(step, seconds, asked=_read_request, stopping=_stop)
    else:
        _note_saved(asked=_read_request, stopping=_stop)


def restore() -> Checkpoint | None:
    """Return the newest checkpoint that `save` has put in place, or None."""
    if is_main:
        _remove_leftovers()
    return next(iter(checkpoints()), None)


def checkpoints() -> list[Checkpoint]:
    """Return all checkpoints that `save` has put in place, newest first."""
    entries = list(checkpoint_dir.iterdir()) if checkpoint_dir.is_dir() else []
    named = [(match, path) for path in entries if (match := _NAME.fullmatch(path.name))]
    newest_first = sorted(((int(match[1]), match[2], path) for match, path in named), reverse=True)
    return [Checkpoint(path, step) for step, _, path in newest_first]


def _announce(step: int, seconds: float, *, asked: str, stopping: bool) -> None:
    _note_saved(asked=asked, stopping=stopping)
    if _SAVED:
        _append(Path(_SAVED), {"step": int(step), "seconds": round(seconds, 3)})


def _note_saved(*, asked: str, stopping: bool) -> None:
    global _answered, _saved_at, _saved_for_stop
    _answered, _saved_at, _saved_for_stop = asked, time.monotonic(), stopping


def _request() -> str:
    global _read_request
    with contextlib.suppress(OSError):
        _read_request = Path(_REQUEST).read_text() if _REQUEST else ""
    return _read_request


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """Create a folder to write in, from which a rename into the checkpoint folder is possible.

    It is next to the checkpoint folder, because others see and save whatever is inside that.
    """
    global _beside
    checkpoint_dir.mkdir(parents=True, exist_ok=True)
    folder = checkpoint_dir.resolve()
    _beside = _beside or _can_rename(folder.parent, folder)
    with _temporary(folder, folder.parent if _beside else folder) as scratch:
        yield scratch


@contextlib.contextmanager
def _temporary(folder: Path, place: Path) -> Iterator[Path]:
    made = tempfile.mkdtemp(prefix=f".{folder.name}.saving-{os.getpid()}-", dir=place)
    try:
        yield Path(made)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _can_rename(place: Path, folder: Path) -> bool:
    # The checkpoint folder may be its own mount, even of the same disk: only an attempt shows it.
    try:
        with _temporary(folder, place) as scratch:
            probe = folder / f"{scratch.name}-probe"
            (scratch / "probe").mkdir()
            (scratch / "probe").rename(probe)
            probe.rmdir()
    except OSError:
        return False
    return True


def _remove_leftovers() -> None:
    """Remove what a killed save has left behind."""
    folder = checkpoint_dir.resolve()
    for place in (folder.parent, folder):
        for path in place.glob(f".{folder.name}.saving-*"):
            owner = path.name.rpartition(".saving-")[2].partition("-")[0]
            if owner == str(os.getpid()) or not Path(f"/proc/{owner}").exists():
                shutil.rmtree(path, ignore_errors=True)


def _only_entry(scratch: Path) -> Path:
    # Some writers append a suffix to the name that they are given.
    made = list(scratch.iterdir())
    if len(made) != 1 or not _NAME.fullmatch(made[0].name):
        names = ", ".join(sorted(path.name for path in made)) or "nothing"
        raise ValueError(
            f"write(path) created {names}; it must create one file or folder at `path`"
        )
    return made[0]


def _sync(path: Path, *, below: bool = True) -> None:
    """Flush a file, or a folder and all `below` it, to the disk."""
    if path.is_symlink():
        return
    if below and path.is_dir():
        for entry in path.iterdir():
            _sync(entry)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_in_place(made: Path, step: int) -> Path:
    target = checkpoint_dir / made.name
    same = [found.path for found in checkpoints() if found.step == step]
    # A file replaces a file atomically. A folder cannot: it is added under the next letter.
    if same and (same != [target] or made.is_dir() or target.is_dir()):
        stem = f"step-{step:09d}"
        target = checkpoint_dir / f"{next_name(step)}{made.name[len(stem) :]}"
    made.replace(target)
    return target


def next_name(step: int) -> str:
    """Return a name for a save of a step that no other has: that of the step, or with a letter."""
    stem = f"step-{step:09d}"
    same = [found.path.name for found in checkpoints() if found.step == step]
    if not same:
        return stem
    return stem + _letters_after(same[0][len(stem) :].partition(".")[0])


def _letters_after(letters: str) -> str:
    """Return letters that sort after others: "" < b < c … z < za < zb …."""
    if not letters:
        return "b"
    if letters[-1] == "z":
        return letters + "a"
    return letters[:-1] + chr(ord(letters[-1]) + 1)


def remove_older(target: Path, step: int, *, keep: int | None) -> None:
    """Remove the saves that the one at `target` replaces: those of its step, and beyond `keep`."""
    with _scratch() as scratch:
        _remove_old(target, step, keep, scratch)


def _remove_old(target: Path, step: int, keep: int | None, scratch: Path) -> None:
    others = [found for found in checkpoints() if found.path != target]
    older = [found for found in others if found.step != step]
    again = [found for found in others if found.step == step]
    surplus = older[keep - 1 :] if keep is not None else []
    for number, found in enumerate([*again, *surplus]):
        # Out of sight first: half a folder is not a checkpoint.
        with contextlib.suppress(OSError):
            found.path.rename(scratch / f"old-{number}")


# Reporting --------------------------------------------------------------------------------------


def report(step: int, **metrics: Any) -> None:
    """Report metrics of a step: numbers, scalars of NumPy or PyTorch, or strings."""
    if is_main:
        values = {name: _plain(value) for name, value in metrics.items()}
        _append(_METRICS, {"step": int(step), **values})


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    try:
        scalar = value.item() if hasattr(value, "item") else value
        number = float(scalar)
    except (RuntimeError, TypeError, ValueError):
        return str(value)
    return number if math.isfinite(number) else None  # JSON has no NaN


def _append(path: Path, record: dict[str, Any]) -> None:
    """Append a line in one write, so that readers never see a torn one."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, f"{json.dumps(record)}\n".encode())
        finally:
            os.close(descriptor)
    except OSError as exc:
        # Reporting must never stop the training.
        with contextlib.suppress(OSError):  # the full disk may be that of stderr
            print(f"runctl: {path} cannot be written: {exc}", file=sys.stderr)
