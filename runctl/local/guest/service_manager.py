"""The service manager of an instance: `systemctl` for the units that it finds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM, Signals

from runctl.local.guest import units
from runctl.local.guest.processes import descendants, send
from runctl.local.guest.readiness import Readiness
from runctl.local.guest.service_group import fork_service
from runctl.local.guest.units import Service, Timer, UnitError

Answer = Callable[[int, str], None]
_READINESS_POLL_SECONDS = 0.05
_NOTHING_TO_DO = {
    "daemon-reload", "daemon-reexec", "reset-failed", "enable", "disable", "mask", "unmask",
    "preset", "set-default",
}  # fmt: skip


@dataclass
class _Running:
    """What the manager knows about a unit since it was first started."""

    unit: Service | Timer | None
    parent_pid: int | None = None
    state: str = "inactive"
    status: int = 0
    active_at: float | None = None
    inactive_at: float | None = None
    stop_asked: bool = False
    generation: int = 0
    waiting: list[Answer] = field(default_factory=list)
    readiness: Readiness | None = None

    def end_readiness(self) -> None:
        """Await the service's message no longer."""
        if self.readiness is not None:
            self.readiness.close()
            self.readiness = None


class ServiceManager:
    """Starts, stops, restarts and times units; `schedule` runs a callback later."""

    def __init__(
        self,
        root: Path,
        env: Mapping[str, str],
        *,
        schedule: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self._directory = root / "etc/systemd/system"
        self._logs = root / "var/log/journal"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._root, self._env, self._schedule = root, dict(env), schedule
        self._units: dict[str, _Running] = {}
        self._booted = time.monotonic()
        self.closed = False

    def systemctl(self, argv: list[str], answer: Answer) -> None:  # noqa: C901 - one branch a verb
        """Perform a systemctl command line and answer with its exit code and output."""
        options = [word for word in argv if word.startswith("-")]
        words = [word for word in argv if not word.startswith("-")]
        if not words:
            return answer(0, "")
        verb, names = words[0], [_full_name(word) for word in words[1:]]
        try:
            if verb == "is-system-running":
                return answer(0, "running\n")
            if verb in {"is-active", "is-failed", "is-enabled", "status", "show"}:
                code, text = self._query(verb, names)
                return answer(code, "" if {"-q", "--quiet"} & set(options) else text)
            if verb in _NOTHING_TO_DO:
                if verb in {"enable", "disable"}:
                    for name in names:
                        units.load(self._directory, name)
                if "--now" not in options:
                    return answer(0, "")
                verb = "start" if verb == "enable" else "stop"
            if verb == "kill":
                return answer(0, self._kill(names, options))
            if verb in {"restart", "try-restart", "reload-or-restart"}:
                return self._each(names, self._restart, answer)
            if verb == "start":
                wait = None if "--no-block" not in options else (lambda _code, _text: None)
                self._each(names, self._start, wait or answer)
                return answer(0, "") if wait else None
            if verb == "stop":
                return self._each(names, self._stop, answer)
        except UnitError as exc:
            return answer(5, f"Failed to {verb} unit: {exc}\n")
        return answer(1, f"Unknown command verb {verb!r}; the local cloud may lack it.\n")

    def ended(self, pid: int, status: int) -> bool:
        """Record that a service's parent process ended; return whether it was one of ours."""
        for name, running in self._units.items():
            if running.parent_pid == pid:
                self._service_ended(name, running, status)
                return True
        return False

    def close(self) -> None:
        """Start no service again."""
        self.closed = True

    def stop_all(self) -> set[int]:
        """Ask every service to stop, and return the processes concerned."""
        parents = [unit.parent_pid for unit in self._units.values() if unit.parent_pid]
        send(parents, SIGTERM)
        return {pid for parent in parents for pid in (parent, *descendants(parent))}

    def _query(self, verb: str, names: list[str]) -> tuple[int, str]:
        states = [self._units[name].state if name in self._units else "inactive" for name in names]
        if verb == "is-enabled":
            return 0, "enabled\n" * len(names)
        if verb == "is-failed":
            return (0 if "failed" in states else 1), "".join(f"{state}\n" for state in states)
        if verb == "show":
            return 0, "".join(f"ActiveState={state}\n" for state in states)
        text = "".join(
            f"{state}\n" if verb == "is-active" else f"{name}: {state}\n"
            for name, state in zip(names, states, strict=True)
        )
        return (0 if all(state == "active" for state in states) else 3), text

    def _kill(self, names: list[str], options: list[str]) -> str:
        signum = SIGTERM
        for option in options:
            if option.startswith(("--signal=", "-s=")):
                text = option.partition("=")[2].removeprefix("SIG")
                signum = Signals(int(text)) if text.isdigit() else Signals[f"SIG{text}"]
        for name in names:
            if (running := self._units.get(name)) and running.parent_pid:
                send(descendants(running.parent_pid), signum)
        return ""

    def _each(self, names: list[str], act: Callable[[str, Answer], None], answer: Answer) -> None:
        left = len(names)
        worst, texts = 0, []

        def note_done(code: int, text: str) -> None:
            nonlocal left, worst
            left, worst = left - 1, max(worst, code)
            texts.append(text)
            if left == 0:
                answer(worst, "".join(texts))

        if not names:
            answer(1, "Too few arguments.\n")
        for name in names:
            act(name, note_done)

    def _start(self, name: str, answer: Answer) -> None:
        if self.closed:
            return answer(1, "The instance is shutting down.\n")
        running = self._units.setdefault(name, _Running(None))
        if running.state in {"active", "activating"} and not running.stop_asked:
            if running.state == "activating" and running.parent_pid is not None:
                return running.waiting.append(answer)
            return answer(0, "")
        running.unit = units.load(self._directory, name)
        running.stop_asked = False
        if isinstance(running.unit, Service):
            self._start_service(name, running, running.unit, answer)
            return None
        running.state, running.active_at = "active", time.monotonic()
        running.generation += 1
        if isinstance(running.unit, Timer):
            self._arm(running, running.unit, first=True)
        return answer(0, "")

    def _start_service(
        self, name: str, running: _Running, service: Service, answer: Answer
    ) -> None:
        base = {**self._env, "INVOCATION_ID": f"{time.monotonic_ns():032x}"}
        running.end_readiness()
        if service.kind == "notify":
            running.readiness = Readiness(self._root / "run/systemd", name)
            base["NOTIFY_SOCKET"] = running.readiness.address
        env = service.environ(base)
        directory = Path(service.working_directory) if service.working_directory else self._root
        output = self._logs / f"{name}.log"
        if service.output and ":/" in service.output:
            output = Path(service.output.partition(":")[2])
        running.parent_pid = fork_service(service, env=env, cwd=directory, output=output)
        running.state, running.active_at = "active", time.monotonic()
        if service.kind in {"oneshot", "notify"}:
            running.state = "activating"
            running.waiting.append(answer)
        else:
            answer(0, "")
        if running.readiness is not None:
            self._await_readiness(running)

    def _await_readiness(self, running: _Running) -> None:
        if running.readiness is None:
            return  # it has ended
        if not running.readiness.has_come():
            self._schedule(_READINESS_POLL_SECONDS, lambda: self._await_readiness(running))
            return
        running.end_readiness()
        running.state, running.active_at = "active", time.monotonic()
        waiting, running.waiting = running.waiting, []
        for answer in waiting:
            answer(0, "")

    def _stop(self, name: str, answer: Answer) -> None:
        running = self._units.get(name)
        if running is None:
            units.load(self._directory, name)
            return answer(0, "")
        running.stop_asked = True
        running.generation += 1
        if running.parent_pid is None:
            running.state = "inactive"
            return answer(0, "")
        running.waiting.append(answer)
        send([running.parent_pid], SIGTERM)
        return None

    def _restart(self, name: str, answer: Answer) -> None:
        def then_start(_code: int, _text: str) -> None:
            try:
                self._start(name, answer)
            except UnitError as exc:
                answer(5, f"{exc}\n")

        self._stop(name, then_start)

    def _service_ended(self, name: str, running: _Running, status: int) -> None:
        service = running.unit
        if not isinstance(service, Service):  # only services have a parent process
            raise TypeError(name)
        if running.readiness is not None:
            status = status or 1  # it was never ready
            running.end_readiness()
        running.parent_pid, running.status, running.inactive_at = None, status, time.monotonic()
        again = service.restarts_after(status) and not running.stop_asked and not self.closed
        kept = service.kind == "oneshot" and service.remain_after_exit and status == 0
        running.state = (
            "activating" if again
            else "active" if kept and not running.stop_asked
            else "failed" if status and not running.stop_asked
            else "inactive"
        )  # fmt: skip
        waiting, running.waiting = running.waiting, []
        for answer in waiting:
            answer(1 if status and not running.stop_asked else 0, "")
        if again:
            generation = running.generation
            self._schedule(
                service.restart_after.total_seconds(),
                lambda: self._start_again(name, running, generation),
            )
        for timer in self._units.values():
            if isinstance(timer.unit, Timer) and timer.unit.unit == name:
                self._arm(timer, timer.unit, first=False)

    def _start_again(self, name: str, running: _Running, generation: int) -> None:
        if running.generation == generation and not running.stop_asked:
            running.state = "inactive"
            self._start(name, lambda _code, _text: None)

    def _arm(self, running: _Running, timer: Timer, *, first: bool) -> None:
        now = time.monotonic()
        target = self._units.get(timer.unit)
        moments = []
        if first:
            moments += [self._booted + span.total_seconds() for span in timer.on_boot]
            moments += [now + span.total_seconds() for span in timer.on_active]
        if target and target.active_at is not None:
            moments += [target.active_at + s.total_seconds() for s in timer.on_unit_active]
        if target and target.inactive_at is not None:
            moments += [target.inactive_at + s.total_seconds() for s in timer.on_unit_inactive]
        if not moments or running.state != "active":
            return
        running.generation += 1
        generation = running.generation
        self._schedule(max(0.0, min(moments) - now), lambda: self._elapse(running, generation))

    def _elapse(self, running: _Running, generation: int) -> None:
        timer = running.unit
        if running.generation != generation or running.state != "active" or self.closed:
            return
        if isinstance(timer, Timer):
            self._start(timer.unit, lambda _code, _text: None)


def _full_name(name: str) -> str:
    return name if "." in name else f"{name}.service"
