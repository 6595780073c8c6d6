"""The agent's commands: `run` is the service; the others ask the service for something."""

import argparse
import gc
import logging
import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from runctl.agent.attempt import AttemptRunner
from runctl.agent.gang.place import find_node
from runctl.agent.instance import processes
from runctl.agent.instance.assignment import write_assignment
from runctl.agent.instance.forgetting import forget_attempt, forget_run
from runctl.agent.instance.imds import Metadata, MetadataError
from runctl.agent.instance.instance_store import use_instance_store
from runctl.agent.instance.settings import Paths, Settings, read_paths, read_settings
from runctl.agent.reporting.agent_log import MaskedFormatter, OwnLog
from runctl.agent.reporting.heartbeat import touch
from runctl.agent.reporting.logs import LogShipper
from runctl.agent.reporting.secret_mask import SecretMask
from runctl.agent.runtime.container_runtime import ContainerRuntime
from runctl.agent.runtime.host_runtime import HostRuntime
from runctl.agent.signals import request_files
from runctl.agent.signals.mailbox import Mailbox
from runctl.agent.signals.request_files import Request
from runctl.agent.signals.termination import Termination
from runctl.agent.signals.watcher import InterruptionWatcher
from runctl.aws.clients import Clients, Connection
from runctl.aws.deployment import Deployment
from runctl.aws.services import AwsServices
from runctl.model import identity
from runctl.model.errors import RunctlError
from runctl.model.node import NodeId, NodeProgress

FLUSH = timedelta(seconds=15)

logger = logging.getLogger("runctl.agent")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit status."""
    parser = argparse.ArgumentParser(prog="runctl-agent", description=__doc__)
    others = ["check", "find-trainer", "monitor", "registry-login"]
    parser.add_argument(
        "command", choices=["run", *(request.value for request in Request), *others]
    )
    parser.add_argument("action", nargs="?", default="")
    parsed = parser.parse_args(arguments)
    command = parsed.command
    paths = read_paths()
    if command == "registry-login":
        return log_in(paths, parsed.action)
    if command == "check":
        return check()
    if command in others:
        # Imported here, since an attempt needs none of it.
        from runctl.agent.monitor.service import run as run_monitor

        return run_monitor(command, paths)
    if command != "run":
        deadline = os.environ.get(request_files.DEADLINE, "")
        request_files.write(paths.requests, Request(command), deadline=deadline)
        return 0
    return run(paths)


def run(paths: Paths) -> int:
    """Run the attempt on this instance and, in a group or a gang, those that follow it here."""
    # A snapshot of 10,000 files creates some 100,000 objects at once, none of them garbage. With
    # the default threshold of 700 new objects the collector would take a third of the time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    # Before anything is written; the disks of a machine that belongs to somebody are left alone.
    said = "" if os.environ.get("RUNCTL_RUN_ID") else use_instance_store(paths)
    paths.make()
    processes.become_subreaper()
    own_log, mask = _open_log(paths)
    if said:
        logger.info(said)
    settings = _settings()
    services = _services(settings)
    termination = Termination()
    termination.install()
    mailbox, watch = _watch(settings, termination)
    while True:
        logger.info(
            "attempt %d of %s on %s", settings.attempt, settings.run_id, settings.instance_id
        )
        node = find_node(settings, services.ledger, mailbox)
        if node is None:
            watch.stop()
            shut_down = not paths.notice.exists()
            break
        settings = replace(settings, rank=node.rank)
        runner, shut_down = _run_attempt(settings, services, own_log, mailbox, mask, node.progress)
        watch.stop()
        if runner.stay is None:
            break
        if settings.is_gang:
            forget_attempt(paths)
        else:
            forget_run(paths)
        own_log, mask = _open_log(paths)
        mailbox, watch = _watch(settings, termination)
        # After a notice this withdraws the offer at once.
        following = runner.stay.wait(mailbox, is_noticed=paths.notice.exists)
        if following is None:
            shut_down = not paths.notice.exists()
            break
        settings = _go_on(settings, following)
    if shut_down and not settings.is_existing_instance:
        logger.info("shutting down")
        subprocess.run(["shutdown", "-h", "now"], check=False)
    return 0


def _run_attempt(
    settings: Settings,
    services: AwsServices,
    own_log: OwnLog,
    mailbox: Mailbox,
    mask: SecretMask,
    earlier: NodeProgress,
) -> tuple[AttemptRunner, bool]:
    """Run one attempt; return its runner, and whether the instance may shut down now.

    `earlier` is what an agent that was started before has reported of this node.
    """
    shipper = _shipper(services, settings, own_log, mask)
    shipper.start()
    runner = AttemptRunner(
        settings,
        services,
        lambda engine: (
            HostRuntime(on_exit=mailbox.wake)
            if engine is None
            else ContainerRuntime(engine, settings.paths, on_exit=mailbox.wake)
        ),
        mailbox=mailbox,
        vendor=vendor_folder(),
        mask=mask,
        follow=lambda path: shipper.follow(identity.log_stream(*settings.node), path),
        earlier=earlier,
    )
    shut_down = runner.run()
    _store_own_log(services, settings, own_log)
    shipper.stop(within=FLUSH)
    runner.finish_background_work()
    return runner, shut_down


def _go_on(settings: Settings, node: NodeId) -> Settings:
    """Take the next attempt; an agent that is started again finds it in a file."""
    paths = settings.paths
    write_assignment(paths.assignment, node)
    paths.failures.unlink(missing_ok=True)
    touch(paths.lease)
    return replace(settings, run_id=node.run_id, attempt=node.attempt, rank=node.rank)


def _open_log(paths: Paths) -> tuple[OwnLog, SecretMask]:
    mask, own_log = SecretMask(), OwnLog(paths.agent_log)
    _log_to(own_log, mask)
    return own_log, mask


def _watch(settings: Settings, termination: Termination) -> tuple[Mailbox, InterruptionWatcher]:
    """Begin to watch for requests to the next attempt."""
    mailbox = Mailbox()
    termination.inform(mailbox)
    watch = InterruptionWatcher(Metadata(), settings.paths, mailbox, is_gang=settings.is_gang)
    watch.start()
    return mailbox, watch


def check() -> int:
    """Print the permissions that this instance's role lacks to run an attempt."""
    # Imported here, since an attempt needs none of it.
    from runctl.aws.permissions import missing_permissions

    environ = os.environ
    missing = list(
        missing_permissions(
            Clients(Connection(region=environ["RUNCTL_REGION"], is_on_instance=True), attempts=2),
            table=environ["RUNCTL_TABLE"],
            bucket=environ["RUNCTL_BUCKET"],
            log_group=environ["RUNCTL_LOG_GROUP"],
        )
    )
    for sentence in missing:
        print(sentence, file=sys.stderr)
    return 1 if missing else 0


def log_in(paths: Paths, action: str) -> int:
    """Answer the Docker client, which reads the result and the error from the output."""
    # Imported here, since an attempt needs none of it.
    from runctl.agent.prepare.registry_login import answer_helper
    from runctl.aws.registry_tokens import RegistryTokens

    region = os.environ.get("RUNCTL_REGION") or os.environ.get("AWS_DEFAULT_REGION", "")
    tokens = RegistryTokens(
        lambda service, region: Clients(
            Connection(region=region, is_on_instance=True), attempts=4
        ).get(service)
    )
    host = sys.stdin.read().strip()
    try:
        print(answer_helper(paths.docker_config, action, host, tokens, region=region))
    except RunctlError as exc:
        print(f"{type(exc).__name__}: {exc}")
        return 1
    return 0


def vendor_folder() -> Path:
    """Return the folder with the vendored libraries, next to the package in the archive."""
    return Path(__file__).resolve().parents[2] / "vendor"


def _settings() -> Settings:
    metadata = Metadata()
    while True:
        try:
            return read_settings(metadata)
        except MetadataError as exc:
            logger.warning("%s; trying again", exc)
            time.sleep(1)


def _services(settings: Settings) -> AwsServices:
    deployment = Deployment(
        region=settings.region,
        table=settings.table,
        bucket=settings.bucket,
        log_group=settings.log_group,
    )
    return AwsServices(
        Clients(Connection(region=settings.region, is_on_instance=True), attempts=4), deployment
    )


def _shipper(
    services: AwsServices, settings: Settings, own_log: OwnLog, mask: SecretMask
) -> LogShipper:
    stream = identity.log_stream(*settings.node)
    agent_stream = identity.agent_log_stream(stream)
    paths = settings.paths
    return LogShipper(
        services.log_writer,
        streams={
            stream: [paths.trainer_output, paths.trainer_errors],
            agent_stream: [paths.agent_log],
        },
        unwritten={agent_stream: own_log.take_unwritten},
        mask=mask,
        held=[stream],
    )


def _store_own_log(services: AwsServices, settings: Settings, own_log: OwnLog) -> None:
    key = identity.boot_log_key(*settings.node)
    try:
        services.blobs.put(key, own_log.read_end())
    except (RunctlError, OSError) as exc:
        logger.warning("the agent's log could not be stored: %s", exc)


def _log_to(own_log: OwnLog, mask: SecretMask) -> None:
    handlers: list[logging.Handler] = [own_log, logging.StreamHandler(sys.stderr)]
    for handler in handlers:
        handler.setFormatter(MaskedFormatter(mask))
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    # botocore logs requests with their headers at DEBUG; never let it.
    logging.getLogger("botocore").setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
