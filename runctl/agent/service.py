"""The service: runs the attempt on this instance and, in a group or a gang, those that follow."""

import gc
import logging
import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from runctl.agent.attempt import AttemptRunner
from runctl.agent.gang.place import find_node
from runctl.agent.instance import processes
from runctl.agent.instance.forgetting import forget_attempt, forget_run
from runctl.agent.instance.imds import Metadata, MetadataError
from runctl.agent.instance.instance_store import use_instance_store
from runctl.agent.instance.paths import Paths
from runctl.agent.instance.settings import Settings, read_settings
from runctl.agent.own_session import NoSessionError, await_first_session, go_on
from runctl.agent.reporting.agent_log import MaskedFormatter, OwnLog
from runctl.agent.reporting.logs import LogShipper
from runctl.agent.reporting.secret_mask import SecretMask
from runctl.agent.runtime.container_runtime import ContainerRuntime
from runctl.agent.runtime.host_runtime import HostRuntime
from runctl.agent.signals.mailbox import Mailbox, StopCause, StopRequest
from runctl.agent.signals.termination import Termination
from runctl.agent.signals.watcher import InterruptionWatcher
from runctl.aws.deployment import Deployment
from runctl.aws.instance_access import InstanceAccess
from runctl.aws.services import AwsServices
from runctl.aws.trial_judge import TrialJudge
from runctl.model import identity
from runctl.model.errors import RunctlError
from runctl.model.node import NodeProgress

FLUSH = timedelta(seconds=15)

logger = logging.getLogger("runctl.agent")


def run(paths: Paths, access: InstanceAccess) -> int:
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
    services = _services(settings, access)
    termination = Termination()
    termination.install()
    mailbox, watch = _watch(settings, termination, access)
    try:
        held = await_first_session(access.credentials, settings, mailbox)
        while held is not None:
            settings = held
            logger.info(
                "attempt %d of %s on %s", settings.attempt, settings.run_id, settings.instance_id
            )
            node = find_node(settings, services.ledger, mailbox)
            if node is None:
                break
            settings = replace(settings, rank=node.rank)
            runner, shut_down = _run_attempt(
                settings, services, access, own_log, mailbox, mask, node.progress
            )
            watch.stop()
            if runner.stay is None:
                return _end(settings, shut_down=shut_down)
            if settings.is_gang:
                forget_attempt(paths)
            else:
                forget_run(paths)
            own_log, mask = _open_log(paths)
            mailbox, watch = _watch(settings, termination, access)
            # After a notice this withdraws the offer at once.
            following = runner.stay.wait(mailbox, is_noticed=paths.notice.exists)
            held = None if following is None else go_on(access.credentials, settings, following)
    except NoSessionError as exc:
        if exc.may_pass and settings.is_existing_instance:
            return 1
    watch.stop()
    return _end(settings, shut_down=not paths.notice.exists())


def _end(settings: Settings, *, shut_down: bool) -> int:
    """End the agent, and with it a machine of ours."""
    if shut_down and not settings.is_existing_instance:
        logger.info("shutting down")
        subprocess.run(["shutdown", "-h", "now"], check=False)
    return 0


def _run_attempt(
    settings: Settings,
    services: AwsServices,
    access: InstanceAccess,
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
        session_of_trainer=access.function.session_of_trainer,
        judge=TrialJudge(services.clients.get, prove=access.function.prove),
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


def _open_log(paths: Paths) -> tuple[OwnLog, SecretMask]:
    mask, own_log = SecretMask(), OwnLog(paths.agent_log)
    _log_to(own_log, mask)
    return own_log, mask


def _watch(
    settings: Settings, termination: Termination, access: InstanceAccess
) -> tuple[Mailbox, InterruptionWatcher]:
    """Begin to watch for requests to the next attempt, and for the end of this instance's work."""
    mailbox = Mailbox()
    termination.inform(mailbox)

    def end(reason: str) -> None:
        # A run that is stopped is noticed in the ledger, which a session can read until it expires.
        mailbox.end(
            StopRequest(
                cause=StopCause.FENCED,
                reason=f"the work of this instance is over: {reason}",
                detected=datetime.now(timezone.utc),
            )
        )

    access.credentials.on_over = end
    watch = InterruptionWatcher(Metadata(), settings.paths, mailbox, is_gang=settings.is_gang)
    watch.start()
    return mailbox, watch


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


def _services(settings: Settings, access: InstanceAccess) -> AwsServices:
    deployment = Deployment(
        region=settings.region,
        table=settings.table,
        bucket=settings.bucket,
        log_group=settings.log_group,
    )
    return AwsServices(access.clients(), deployment)


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
