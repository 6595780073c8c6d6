"""The execution of one build: its folder, its processes, its log and its end."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import runctl
from runctl.local.codebuild import buildspec, credentials
from runctl.local.codebuild.buildspec import Buildspec, BuildspecError
from runctl.local.codebuild.engine import BuildEngine, EngineNotStartedError
from runctl.local.codebuild.inputs import InputError, Inputs
from runctl.local.codebuild.logs import BuildLog, LogError
from runctl.local.codebuild.records import BuildRecord
from runctl.local.codebuild.settings import Variable, variables
from runctl.local.core import iam
from runctl.local.core.interpreter import base_python
from runctl.local.core.knobs import Knobs

logger = logging.getLogger(__name__)

PACKAGE_ROOT = Path(runctl.__file__).parents[1]
_START = (
    f"import sys; sys.path.insert(0, {str(PACKAGE_ROOT)!r}); "
    "from runctl.local.guest.build import main; main()"
)
_SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


@dataclass(frozen=True, kw_only=True)
class BuildHost:
    """What builds use of the local cloud."""

    folder: Path
    endpoint: str
    engine: BuildEngine
    programs: Path
    knobs: Knobs
    python: str = field(default_factory=base_python)


class Execution:
    """A build that is executed, in a thread of its own."""

    def __init__(self, record: BuildRecord, host: BuildHost) -> None:
        self.record, self._host = record, host
        self._folder = host.folder / record.unique
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._ended_as = ""
        self.ended = threading.Event()

    def stop(self, status: str = "STOPPED") -> None:
        """End all processes of the build at once, and the build with a status."""
        with self._lock:
            self._ended_as = self._ended_as or status
            process = self._process
        if process and process.stdin:
            # The first process of the build ends the others, and itself.
            with contextlib.suppress(OSError):
                process.stdin.close()

    def run(self) -> None:
        """Execute the build to its end."""
        minutes = self.record.settings["timeoutInMinutes"]
        seconds = minutes * 60 * self._host.knobs.build_timeout_scale
        timer = threading.Timer(seconds, self.stop, ("TIMED_OUT",))
        timer.daemon = True
        timer.start()
        status = "FAULT"
        try:
            self._folder.mkdir(mode=0o700, parents=True)
            status = self._run()
        except Exception:
            logger.exception("build %s failed", self.record.build_id)
        finally:
            timer.cancel()
            shutil.rmtree(self._folder, ignore_errors=True)
            self.record.finish(self._ended_as or status)
            self.ended.set()

    def _run(self) -> str:
        record, role = self.record, self.record.settings["serviceRole"]
        record.end()
        record.begin("PROVISIONING")
        session = iam.open_session(role, f"AWSCodeBuild-{record.unique}")
        region = record.arn.split(":")[3]
        inputs = Inputs(self._host.endpoint, region, session)
        record.end()
        record.begin("DOWNLOAD_SOURCE")
        try:
            log = BuildLog(record.log, role)
            spec = self._prepare(inputs)
            values = inputs.values(self._variables(spec))
        except (BuildspecError, InputError, LogError) as exc:
            code = getattr(exc, "code", "YAML_FILE_ERROR")
            record.end("FAILED", code=code, message=str(exc))
            return "FAILED"
        record.end()
        with credentials.served(session, role) as found:
            environment = self._environment(region) | self._docker(log) | values | found
            return self._execute(spec, environment, log)

    def _prepare(self, inputs: Inputs) -> Buildspec:
        settings = self.record.settings
        source = settings["source"]
        for name in ("src", "tmp", "root"):
            (self._folder / name).mkdir()
        if source["type"] == "S3":
            inputs.download(
                source.get("location", ""), settings.get("sourceVersion") or "", self._sources
            )
        text: str = source.get("buildspec") or "buildspec.yml"
        if "\n" not in text and text.endswith((".yml", ".yaml", ".json")):
            path = self._sources / text
            if not path.resolve().is_relative_to(self._sources.resolve()) or not path.is_file():
                raise BuildspecError(f"stat {path}: no such file or directory")
            text = path.read_text()
        return buildspec.parse(text)

    @property
    def _sources(self) -> Path:
        return self._folder / "src"

    def _variables(self, spec: Buildspec) -> list[Variable]:
        """List all variables: those of the request and the project hide those of the buildspec."""
        found = [Variable(name, value) for name, value in spec.variables.items()]
        found += [Variable(*item, "PARAMETER_STORE") for item in spec.parameters.items()]
        found += [Variable(*item, "SECRETS_MANAGER") for item in spec.secrets.items()]
        by_name = {variable.name: variable for variable in found}
        by_name |= {variable.name: variable for variable in variables(self.record.settings)}
        return list(by_name.values())

    def _docker(self, log: BuildLog) -> dict[str, str]:
        """Return what makes Docker work, which it does in privileged builds only, as on AWS."""
        if self.record.settings["environment"].get("privilegedMode"):
            try:
                # Clients without buildx fail unless they are told to do without BuildKit.
                return {"DOCKER_HOST": self._host.engine.host(), "DOCKER_BUILDKIT": "0"}
            except EngineNotStartedError as exc:
                log.add_own(f"Docker is not available: {exc}")
        return {"DOCKER_HOST": f"unix://{self._folder}/no-docker.sock"}

    def _environment(self, region: str) -> dict[str, str]:
        fields, settings = self.record.fields, self.record.settings
        path = [str(self._host.programs), str(Path(self._host.python).parent), *_SYSTEM_PATH]
        return {
            "PATH": ":".join(path),
            "HOME": str(self._folder / "root"),
            "TMPDIR": str(self._folder / "tmp"),
            "LANG": "C.UTF-8",
            "AWS_REGION": region,
            "AWS_DEFAULT_REGION": region,
            "AWS_ENDPOINT_URL": self._host.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
            "CODEBUILD_BUILD_ARN": self.record.arn,
            "CODEBUILD_BUILD_ID": self.record.build_id,
            "CODEBUILD_BUILD_IMAGE": settings["environment"].get("image", ""),
            "CODEBUILD_BUILD_NUMBER": str(fields["buildNumber"]),
            "CODEBUILD_CI": "true",
            "CODEBUILD_INITIATOR": fields["initiator"],
            "CODEBUILD_LOG_PATH": fields["logs"].get("streamName", ""),
            "CODEBUILD_PROJECT_ARN": settings["arn"],
            "CODEBUILD_SOURCE_VERSION": fields["sourceVersion"],
            "CODEBUILD_SRC_DIR": str(self._sources),
            "CODEBUILD_START_TIME": str(int(fields["startTime"] * 1000)),
        }

    def _execute(self, spec: Buildspec, environment: dict[str, str], log: BuildLog) -> str:
        job = {
            "phases": [
                {
                    "name": phase.name,
                    "commands": phase.commands,
                    "finally": phase.finally_,
                    "aborts": phase.aborts,
                }
                for phase in spec.phases
            ],
            "cwd": str(self._sources),
            "env": environment,
            "shell_state": str(self._folder / "bash"),
        }
        status = "FAULT"
        for event in self._events(job):
            if self._ended_as:
                continue  # what its processes say while they are killed
            if event["event"] == "line":
                log.add(event["text"])
            elif event["event"] == "phase":
                self.record.begin(event["name"].upper())
                log.add_own(f"Entering phase {event['name'].upper()}")
            else:
                status = self._end_phase(event, log, status)
        return status

    def _end_phase(self, event: dict[str, Any], log: BuildLog, status: str) -> str:
        name, problem = event["name"].upper(), event["problem"]
        found = "FAILED" if problem else "SUCCEEDED"
        log.add_own(f"Phase complete: {name} State: {found}")
        code = "COMMAND_EXECUTION_ERROR" if problem else ""
        log.add_own(f"Phase context status code: {code} Message: {problem}")
        self.record.end(found, code=code, message=problem)
        return "FAILED" if problem or status == "FAILED" else "SUCCEEDED"

    def _events(self, job: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Start the processes, and yield what they report until the last of them has ended."""
        with self._lock:
            if self._ended_as:
                return
            process = self._process = subprocess.Popen(
                [self._host.python, "-I", "-S", "-c", _START, self.record.unique],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={},
                cwd=self._folder,
            )
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the process has no pipes")
        with contextlib.suppress(BrokenPipeError, ValueError):
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
        with process.stdout:
            for line in process.stdout:
                yield json.loads(line)
        process.wait()
