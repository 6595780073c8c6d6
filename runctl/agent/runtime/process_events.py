"""Forks, program starts and exits of the trainer's processes, as the kernel reports them.

Only the parent of a process learns its exit code, and a shell returns that of the last command of a
pipe. The kernel's process connector reports all of them, but only to root in the machine's own
namespaces; elsewhere the exit code of the shell has to be trusted.
"""

import contextlib
import errno
import logging
import os
import signal
import socket
import struct
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from runctl.agent.runtime.process_table import ProcessInfo, read_processes
from runctl.agent.runtime.stop_targets import role_of

NETLINK_CONNECTOR = 11
CN_IDX_PROC = 1
CN_VAL_PROC = 1
LISTEN = 1
NLMSG_DONE = 3
SO_RCVBUFFORCE = 33
SOCKET_BUFFER_BYTES = 4 * 1024 * 1024
NETLINK_HEADER = struct.Struct("=IHHII")
CONNECTOR_HEADER = struct.Struct("=IIIIHH")
EVENT_HEADER = struct.Struct("=IIQ")
FORK, EXEC, EXIT = 0x1, 0x2, 0x80000000
# Enough for the last pipe of a script, without the workers of a data loader filling the memory.
MAX_RECORDS = 4096
MAX_MEMBERS = 1 << 17

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Record:
    """A process of the trainer: what it ran, and how it ended, if it has."""

    info: ProcessInfo
    status: int | None = None
    ended: int = 0

    @property
    def exit_code(self) -> int | None:
        """Its exit code, negative for a signal, or None while it runs."""
        return None if self.status is None else os.waitstatus_to_exitcode(self.status)

    @property
    def name(self) -> str:
        """Its name for a person: the script of an interpreter, or else the program."""
        words = [Path(word).name for word in self.info.words if not word.startswith("-")]
        if self.info.is_python and len(words) > 1:
            return words[1]
        return words[0] if words else self.info.name


def _is_program(record: Record) -> bool:
    return bool(record.info.words) and role_of(record.info) == "trainer"


@dataclass
class History:
    """The trainer's processes so far, without any I/O."""

    root: int
    records: dict[int, Record] = field(default_factory=dict)
    members: set[int] = field(default_factory=set)
    _ends: int = 0

    def forked(self, parent: int, child: int) -> None:
        """Record a new process."""
        if (parent == self.root or parent in self.members) and len(self.members) < MAX_MEMBERS:
            self.members.add(child)
            self.records[child] = Record(info=ProcessInfo(pid=child, parent=parent))
            self._forget()

    def adopt(self, info: ProcessInfo) -> None:
        """Record a process that belongs to the trainer without descending from the root."""
        self.members.add(info.pid)
        self.records.setdefault(info.pid, Record(info=info))

    def started(self, info: ProcessInfo) -> None:
        """Record the program that a process has started to run, with its pipes."""
        if info.pid in self.members:
            known = self.records.get(info.pid)
            # Its first parent may have ended since, and it has another now.
            parent = info.parent if known is None else known.info.parent
            self.records[info.pid] = Record(info=replace(info, parent=parent))

    def exited(self, pid: int, status: int) -> None:
        """Record an exit."""
        if record := self.records.get(pid):
            self._ends += 1
            self.records[pid] = replace(record, status=status, ended=self._ends)

    def failed_before_pipe(self, leader: int) -> tuple[Record, Record] | None:
        """Return the program that failed in the leader's last pipe, and the pipe's last command.

        The result is None if the last command reads from no pipe, or if all commands before it
        exited with 0 or because their output was not read to its end. The exit codes of earlier
        commands are left to the script.
        """
        shell = leader
        for _ in range(len(self.records)):
            # Pipes inside a program, or a shell that was replaced by one, are left to the program.
            if (runs := self.records.get(shell)) and _is_program(runs):
                return None
            children = (child for child in self.records.values() if child.info.parent == shell)
            last = _last_ended(children)
            if last is None:
                return None
            last = self._end_of_pipe(last)
            if failed := self._failed_upstream(last):
                return self._program_in(failed), last
            shell = last.info.pid
        return None

    def has_trained_since(self, pid: int) -> bool:
        """Whether the shell that started a process has run a Python program to its end after it.

        Then the process is a helper, however short the training was: the program is the trainer.
        """
        started = list(self.records)  # in the order of their forks
        helper = self.records.get(pid)
        if helper is None:
            return False
        later = (self.records[other] for other in started[started.index(pid) + 1 :])
        return any(
            record.info.parent == helper.info.parent
            and record.info.is_python
            and record.exit_code == 0
            for record in later
        )

    def _end_of_pipe(self, record: Record) -> Record:
        """Return the last command of the pipe that a process is in. They may end in any order."""
        for _ in range(len(self.records)):
            readers = [
                other
                for other in self.records.values()
                if other.info.reads in record.info.writes
                and other.info.parent == record.info.parent
            ]
            if not readers:
                break
            record = readers[0]
        return record

    def _program_in(self, failed: Record) -> Record:
        """Return the program whose exit code a subshell has returned, or the subshell."""
        below = (
            record
            for record in self.records.values()
            if record.info.parent == failed.info.pid and record.exit_code == failed.exit_code
        )
        return _last_ended(below) or failed

    def _failed_upstream(self, last: Record) -> Record | None:
        failed, visited = None, {last.info.pid}
        while last.info.reads:
            before = [
                record
                for record in self.records.values()
                if last.info.reads in record.info.writes
                and record.info.parent == last.info.parent
                and record.info.pid not in visited
            ]
            if not before:
                break
            last = before[0]
            visited.add(last.info.pid)
            if last.exit_code not in {None, 0, -signal.SIGPIPE, 128 + signal.SIGPIPE}:
                failed = last
        return failed

    def _forget(self) -> None:
        if len(self.records) > MAX_RECORDS:
            ended = [record for record in self.records.values() if record.ended]
            ended.sort(key=lambda record: record.ended)
            for record in ended[: MAX_RECORDS // 2]:
                del self.records[record.info.pid]


def _last_ended(records: Iterable[Record]) -> Record | None:
    return max(
        (record for record in records if record.ended),
        key=lambda record: record.ended,
        default=None,
    )


class ProcessEvents:
    """Listens to the process connector, in a thread of its own."""

    def __init__(self) -> None:
        self._history = History(os.getpid())
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Begin to listen, if that is possible here."""
        try:
            self._socket = _listen()
        except OSError as exc:
            logger.info("exit codes inside pipes are not visible here: %s", exc)
            return
        threading.Thread(target=self._run, name="process-events", daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            self._socket = None

    def adopt(self, infos: Iterable[ProcessInfo]) -> None:
        """Count processes, and those that they start from now on, as the trainer's."""
        with self._lock:
            for info in infos:
                self._history.adopt(info)

    def is_member(self, pid: int) -> bool:
        """Whether a process belongs, or belonged, to the trainer or the agent."""
        with self._lock:
            return pid == self._history.root or pid in self._history.members

    def has_trained_since(self, pid: int) -> bool:
        """Return what `History.has_trained_since` does."""
        with self._lock:
            return self._history.has_trained_since(pid)

    def failed_before_pipe(self, leader: int) -> tuple[Record, Record] | None:
        """Return what `History.failed_before_pipe` does."""
        with self._lock:
            return self._history.failed_before_pipe(leader)

    def _run(self) -> None:
        while (listening := self._socket) is not None:
            try:
                message = listening.recv(4096)
            except OSError as exc:
                if exc.errno == errno.ENOBUFS:
                    logger.info("the kernel reported more processes than could be recorded")
                    continue
                return
            if not message:
                return
            with contextlib.suppress(struct.error):
                self._note(message)

    def _note(self, message: bytes) -> None:
        offset = NETLINK_HEADER.size + CONNECTOR_HEADER.size
        what, _, _ = EVENT_HEADER.unpack_from(message, offset)
        offset += EVENT_HEADER.size
        if what == FORK:
            _, parent, thread, child = struct.unpack_from("=IIII", message, offset)
            if thread == child:
                with self._lock:
                    self._history.forked(parent, child)
        elif what == EXEC:
            _, pid = struct.unpack_from("=II", message, offset)
            self._note_start(pid)
        elif what == EXIT:
            thread, pid, status = struct.unpack_from("=III", message, offset)
            if thread == pid:
                with self._lock:
                    self._history.exited(pid, status)

    def _note_start(self, pid: int) -> None:
        with self._lock:
            if pid not in self._history.members:
                return
            parent = self._history.records.get(pid)
        # A subshell in a pipe starts no program, but its pipes are connected by now.
        pids = [pid] if parent is None else [pid, parent.info.parent]
        for info in read_processes(pids):
            with self._lock:
                self._history.started(info)


def _listen() -> socket.socket:
    listening = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_CONNECTOR)
    try:
        with contextlib.suppress(OSError):
            listening.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BUFFER_BYTES)
        listening.bind((0, CN_IDX_PROC))
        body = struct.pack("=I", LISTEN)
        connector = CONNECTOR_HEADER.pack(CN_IDX_PROC, CN_VAL_PROC, 0, 0, len(body), 0)
        size = NETLINK_HEADER.size + len(connector) + len(body)
        header = NETLINK_HEADER.pack(size, NLMSG_DONE, 0, 0, listening.getsockname()[0])
        listening.send(header + connector + body)
    except OSError:
        listening.close()
        raise
    return listening
