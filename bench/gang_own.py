"""Gangs of runctl on the local cloud, for bench/gang.py."""

import re
import shutil
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from bench.gang_nodes import Facts
from runctl.cli.project.package import pack_project
from runctl.cli.project.scan import scan_project
from runctl.local.testbed import Testbed, wait_for
from runctl.model.identity import agent_log_stream, log_stream

TRAINER = Path(__file__).with_name("gang_trainer.py")
FRAMEWORKS = Path(__file__).parents[1] / "build/frameworks"
TIMEOUT = timedelta(minutes=3)
_FETCHED = re.compile(r"fetched (\d+) of the \d+ bytes of ")


class OwnGang:
    """A run of several nodes that loses one, or all, without or with a notice."""

    has_same_script = True

    def __init__(
        self,
        name: str,
        testbed: Testbed,
        folder: Path,
        *,
        nodes: int,
        every: int,
        mebibytes: int,
        spares: int,
        loses_all: bool,
        notice_seconds: int,
        boot_seconds: float,
    ) -> None:
        folder.mkdir()
        folder.chmod(0o777)  # the ranks may run as a user of their own
        self.name, self.facts = name, Facts(folder)
        self._testbed, self._run_id = testbed, folder.name
        self._loses_all, self._notice_seconds = loses_all, notice_seconds
        self._boot_seconds = boot_seconds
        self._request: dict[str, Any] = {
            "script": TRAINER.name,
            "args": [str(folder), str(every), str(mebibytes)],
            "env": {"PYTHONPATH": str(_packages()), "OMP_NUM_THREADS": "1"},
            "nodes": nodes,
            "spares": spares,
        }

    def start(self) -> None:
        """Start the run; its first machines boot at once."""
        self._testbed.cloud.set_knobs(boot_delay=0.0)
        with tempfile.TemporaryDirectory() as scratch:
            project = Path(scratch, "project")
            project.mkdir()
            shutil.copy(TRAINER, project)
            package = pack_project(scan_project(project), Path(scratch, "project.tar.gz"))
            self._testbed.objects.put_if_absent(package.key, package.path)
        request = {"code": self._testbed.objects.uri(package.key), **self._request}
        self._testbed.workflow.start_run(self._run_id, request)

    def is_settled(self) -> bool:
        """Whether a checkpoint is committed, and every spare is ready."""
        nodes = self._testbed.attempts(self._run_id)[-1].nodes
        spares = [node for node in nodes if node.rank >= self._request["nodes"]]
        is_ready = all(spare.progress.phase == "wait" for spare in spares)
        return is_ready and self._testbed.run(self._run_id).newest is not None

    def lose(self, rank: int) -> None:
        """Let EC2 reclaim the machine of a rank, or all of them."""
        self._testbed.cloud.set_knobs(boot_delay=self._boot_seconds)
        for node in self._testbed.attempts(self._run_id)[-1].nodes:
            if (node.rank == rank or self._loses_all) and node.instance_id:
                self._testbed.cloud.interrupt(
                    node.instance_id,
                    notice=self._notice_seconds > 0,
                    notice_seconds=self._notice_seconds,
                )

    def replace(self, lost: int, *, boot_seconds: float) -> None:
        """Leave it to runctl."""

    def fetched_bytes(self, since: float) -> int:
        """Return what all nodes have fetched of checkpoints since the first attempt."""
        time.sleep(3)  # agents send their logs every few seconds
        del since
        found = 0
        for attempt in self._testbed.attempts(self._run_id)[1:]:
            for node in attempt.nodes:
                stream = agent_log_stream(log_stream(self._run_id, attempt.number, node.rank))
                lines, _ = self._testbed.logs.read(stream, position="")
                found += sum(
                    int(match[1]) for line in lines if (match := _FETCHED.search(line.text))
                )
        return found

    def last_words(self) -> str:
        """Return what has become of the run."""
        attempts = self._testbed.attempts(self._run_id)
        nodes = attempts[-1].nodes if attempts else ()
        stages = [f"{node.rank} {node.stage.value} {node.progress.phase}" for node in nodes]
        return f"attempt {len(attempts)}: {', '.join(stages)}"

    def stop(self) -> None:
        """Stop the run, and wait until its machines are gone."""
        arn = self._testbed.workflow.execution_arn(self._run_id)
        self._testbed.workflow.stop_run(arn, cause="measured")
        wait_for(
            lambda: not self._testbed.live_instances(self._run_id),
            f"the machines of {self._run_id} to end",
            timeout=TIMEOUT,
        )


def _packages() -> Path:
    """Return the folder with torch."""
    return next(FRAMEWORKS.resolve().glob("lib/python3*/site-packages"))
