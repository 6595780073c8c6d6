"""How long an attempt may be silent: longer where machines boot slowly, or seem to."""

from dataclasses import replace

from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.run import Attempt, AttemptStage
from runctl.policy.heartbeat import METAL_SILENCE, USUAL_SILENCE, allowed_silence
from tests.attempts import change, make_attempt
from tests.control.fakes import START


def launched(number: int, instance_type: str = "m5.large") -> Attempt:
    return make_attempt(
        number,
        stage=AttemptStage.LAUNCHED,
        instance_id=f"i-{number}",
        pool=f"{instance_type}/us-east-1a/spot",
    )


def never_heard_of(number: int) -> Attempt:
    return replace(launched(number), ended=Outcome(kind=OutcomeKind.LOST))


def test_attempt_is_allowed_five_minutes():
    assert allowed_silence([launched(1)]) == USUAL_SILENCE


def test_bare_metal_is_allowed_the_time_of_its_boot():
    for kind in ("m5.metal", "c7i.metal-24xl"):
        assert allowed_silence([launched(1, kind)]) == METAL_SILENCE


def test_each_attempt_that_was_never_heard_of_doubles_the_time_of_the_next():
    lost = [never_heard_of(1), never_heard_of(2)]
    assert allowed_silence([*lost[:1], launched(2)]) == 2 * USUAL_SILENCE
    assert allowed_silence([*lost, launched(3)]) == 4 * USUAL_SILENCE
    refused = Attempt(run_id="run-1", number=3, stage=AttemptStage.ENDED)
    assert allowed_silence([*lost, refused, launched(4)]) == 4 * USUAL_SILENCE


def test_attempt_that_was_heard_of_resets_the_allowed_time():
    heard = change(never_heard_of(2), heartbeat_at=START)
    assert allowed_silence([never_heard_of(1), heard, launched(3)]) == USUAL_SILENCE
    taken = replace(never_heard_of(2), ended=Outcome(kind=OutcomeKind.INTERRUPTED))
    assert allowed_silence([never_heard_of(1), taken, launched(3)]) == USUAL_SILENCE


def test_allowed_silence_is_bounded_however_many_attempts_were_lost():
    lost = [never_heard_of(number) for number in range(1, 60)]
    assert allowed_silence([*lost, launched(60)]) == METAL_SILENCE
