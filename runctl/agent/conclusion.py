"""The end of an attempt on its instance: the report, and whether the instance stays for another."""

import logging

from runctl.agent.gang.member import GangMember
from runctl.agent.gang.stay import GangStay
from runctl.agent.instance.settings import Settings
from runctl.agent.reporting.final_report import FinalReport
from runctl.agent.reporting.heartbeat import Heartbeat
from runctl.agent.reporting.warm_offer import WarmOffer
from runctl.agent.signals.mailbox import Mailbox
from runctl.aws.services import AwsServices
from runctl.model.errors import RunctlError
from runctl.model.outcome import Outcome
from runctl.policy.warm import may_wait

logger = logging.getLogger(__name__)


class Conclusion:
    """Reports an attempt that has one node, and offers its instance to the next run of its group.

    `stay` is how the instance waits for another attempt, None if it does not.
    """

    def __init__(
        self,
        settings: Settings,
        services: AwsServices,
        *,
        final_report: FinalReport,
        heartbeat: Heartbeat,
        mailbox: Mailbox,
    ) -> None:
        self._settings = settings
        self._services = services
        self._final_report = final_report
        self._heartbeat = heartbeat
        self._mailbox = mailbox
        self.group = ""
        self.stay: WarmOffer | GangStay | None = None

    def repeat(self) -> None:
        """Do what may be left to do after the report of an earlier agent."""
        self._find_group()
        self._make_offer()

    def end(self, outcome: Outcome | None) -> None:
        """End the attempt; without an outcome, a later attempt owns the run."""
        if may_wait(outcome):
            self._make_offer()
        if outcome is not None:
            self._final_report.send(outcome)
        self._heartbeat.stop()

    def is_noticed(self) -> bool:
        """Whether EC2 takes the instance."""
        return self._mailbox.noticed_at is not None or self._settings.paths.notice.exists()

    def _find_group(self) -> None:
        """Find out whether an earlier agent has offered this instance to another run."""
        try:
            run = self._services.ledger.find_run(self._settings.run_id)
        except RunctlError as exc:
            logger.warning("the ledger cannot be read: %s", exc)
        else:
            self.group = "" if run is None else run.request.group

    def _make_offer(self) -> None:
        """Offer this instance to the next run of the group, unless EC2 takes it."""
        if not self.group or self._settings.is_existing_instance or self.is_noticed():
            return
        offer = WarmOffer(self._services.groups, self._settings, self.group)
        if offer.make():
            self.stay = offer


class GangConclusion(Conclusion):
    """Ends the part of one node: the lead reports, and machines stay for the next attempt."""

    def __init__(
        self,
        settings: Settings,
        services: AwsServices,
        member: GangMember,
        *,
        final_report: FinalReport,
        heartbeat: Heartbeat,
        mailbox: Mailbox,
    ) -> None:
        super().__init__(
            settings, services, final_report=final_report, heartbeat=heartbeat, mailbox=mailbox
        )
        self._member = member

    def repeat(self) -> None:
        """Stay, as the earlier agent did."""
        self._member.rest()
        self._heartbeat.start(lambda _run: None)
        self._remain()

    def end(self, outcome: Outcome | None) -> None:
        """Store the end of this node, and report the attempt if that is up to it."""
        reported = self._member.conclude(outcome, store=self._heartbeat.store_progress)
        if reported is not None:
            self._final_report.send(reported)
        elif outcome is not None:
            self._final_report.upload_if_cut_short(outcome)
        self._member.close()
        if self._member.may_stay(reported) and not self.is_noticed():
            self._remain()
        else:
            self._heartbeat.stop()

    def _remain(self) -> None:
        # The node is seen to be alive until the next attempt has it.
        self.stay = GangStay(
            self._services.ledger, self._settings, end_reports=self._heartbeat.stop
        )


def make_conclusion(
    settings: Settings,
    services: AwsServices,
    member: GangMember | None,
    *,
    final_report: FinalReport,
    heartbeat: Heartbeat,
    mailbox: Mailbox,
) -> Conclusion:
    """Return the end of an attempt on this instance, as the `member` of a gang that it may be."""
    if member is None:
        return Conclusion(
            settings, services, final_report=final_report, heartbeat=heartbeat, mailbox=mailbox
        )
    return GangConclusion(
        settings, services, member, final_report=final_report, heartbeat=heartbeat, mailbox=mailbox
    )
