"""Secrets by reference: the trainer has the values; nothing that leaves the machine has them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from runctl.agent.reporting.agent_log import MaskedFormatter, OwnLog
from runctl.agent.reporting.logs import LogShipper
from runctl.agent.reporting.progress import Progress
from runctl.agent.reporting.secret_mask import SecretMask
from runctl.agent.runtime import systemd_scope, trainer_secrets
from runctl.agent.runtime.host_process import HostProcess
from runctl.agent.runtime.ports import Contract
from runctl.agent.runtime.trainer_secrets import TrainerSecrets
from runctl.agent.signals.mailbox import Mailbox, StopCause, StopRequest
from runctl.agent.signals.waiting import CancellableWait, EndedEarlyError
from runctl.aws.secret_values import UnreadableSecretError
from runctl.model.errors import RequestError, TransientError
from runctl.model.limit_options import RetryOptions
from runctl.model.request_checks import ANY
from tests.agent.conftest import make_client
from tests.agent.machine import Cloud, now, wait_until

WANDB, HF = "w4ndb-0123456789-value", 'hf"quoted\\value'
PEM = "-----BEGIN KEY-----\nMIIBsecretline\n-----END KEY-----"
HIDDEN = (WANDB, HF, "MIIBsecretline")

# Prints digests, then the values themselves, and dies with them in its message.
TELLER = """
import hashlib, json, os, pathlib, sys
env = {name: hashlib.sha256(os.environ[name].encode()).hexdigest() for name in ("W", "H", "P")}
words = {
    path.parent.name: path.read_bytes().decode(errors="replace")
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline") if path.exists()
}
shown = [pid for pid, line in words.items() if any(os.environ[name] in line for name in env)]
print(json.dumps({"env": env, "plain": os.environ["PLAIN"], "shown": shown}), flush=True)
print("to the log:", os.environ["W"], os.environ["P"], flush=True)
print(f"login failed for {os.environ['H']}", file=sys.stderr, flush=True)
sys.exit(3)
"""


@pytest.fixture
def stored(endpoint: str, cloud: Cloud) -> Iterator[str]:
    """Store a secret with two values and a parameter; yield the prefix of their names."""
    secrets, ssm = make_client("secretsmanager", endpoint), make_client("ssm", endpoint)
    secrets.create_secret(Name=f"{cloud.name}/wandb", SecretString=WANDB)
    keys = json.dumps({"hf": HF})
    secrets.create_secret(Name=f"{cloud.name}/keys", SecretString=keys)
    ssm.put_parameter(Name=f"/{cloud.name}/pem", Value=PEM, Type="SecureString")
    yield cloud.name
    secrets.close()
    ssm.close()


def references(stored: str) -> dict[str, str]:
    return {
        "W": f"secret:{stored}/wandb",
        "H": f"secret:{stored}/keys#hf",
        "P": f"ssm:/{stored}/pem",
        "PLAIN": "1",
    }


def everything_of(cloud: Cloud) -> str:
    """Return everything that the account stores of the run, as text."""
    table = cloud.clients["dynamodb"].scan(TableName=cloud.name)["Items"]
    events = cloud.clients["logs"].filter_log_events(logGroupName=cloud.name)["events"]
    keys = cloud.keys("")
    objects = [cloud.read(key) for key in keys]
    return "\n".join([str(table), str(events), str(objects), str(cloud.tokens.reports), *keys])


@pytest.mark.slow
def test_trainer_has_the_values_but_nothing_that_leaves_the_machine_contains_them(
    cloud: Cloud, launch, stored: str
) -> None:
    cloud.create_run(
        TELLER,
        script="",
        command=(sys.executable, "train.py"),
        env=references(stored),
    )
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    outcome = cloud.outcome()
    assert outcome["kind"] == "failed", outcome
    assert outcome["reason"].endswith("login failed for ***")
    assert machine.wait() == 0
    log = cloud.log("run-1/0001-000")
    (line,) = [line for line in log if line.startswith("{")]
    digests = [hashlib.sha256(value.encode()).hexdigest() for value in (WANDB, HF, PEM)]
    assert json.loads(line) == {
        "env": dict(zip("WHP", digests, strict=True)),
        "plain": "1",
        "shown": [],
    }
    assert "to the log: *** ***" in log
    assert "login failed for ***" in log
    text = everything_of(cloud) + machine.agent_log()
    text += (machine.state / "log/agent.log").read_text()
    assert [value for value in HIDDEN if value in text or repr(value)[1:-1] in text] == []
    assert f"secret:{stored}/wandb" in text
    assert (machine.state / "log").stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_missing_secret_fails_the_run_before_the_trainer_starts(
    cloud: Cloud, launch, stored: str
) -> None:
    cloud.create_run(
        "open('started', 'w')",
        env={**references(stored), "W": "secret:missing", "H": f"secret:{stored}/keys#HF"},
        retry=RetryOptions(exit_codes=ANY),
    )
    cloud.open_attempt()
    cloud.give_token()
    machine = launch()
    outcome = cloud.outcome(90)
    assert (outcome["kind"], outcome.get("exit_code")) == ("failed", None)
    assert "env.W: secret:missing: there is no such secret in us-east-1" in outcome["reason"]
    assert f"env.H: secret:{stored}/keys#HF: it has no key 'HF'" in outcome["reason"]
    assert machine.wait() == 0
    assert not (machine.state / "project/started").exists()
    text = everything_of(cloud) + machine.agent_log()
    assert [value for value in HIDDEN if value in text] == []


class Values:
    """Returns or raises the given results in order, and the last one forever."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.calls = 0

    def fetch(self, _reference: object) -> str:
        self.calls += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return str(answer)


def resolver(values: Any, mask: SecretMask | None = None, mailbox: Mailbox | None = None):
    progress = Progress()
    resolved = TrainerSecrets(
        values,
        mask=mask or SecretMask(),
        wait=CancellableWait(mailbox or Mailbox()),
        progress=progress,
    )
    return resolved, progress


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_secrets, "RETRY", timedelta(milliseconds=5))


@pytest.mark.usefixtures("at_once")
def test_throttling_is_waited_out_and_shown_in_the_status_meanwhile() -> None:
    values = Values(TransientError("AWS asks to retry later"), WANDB)
    resolved, progress = resolver(values)
    warnings = []
    progress.on_change(lambda: warnings.append(progress.snapshot().warning))
    assert resolved.resolve({"W": "secret:w", "A": "1"}) == {"W": WANDB, "A": "1"}
    assert warnings == ["env.W: secret:w: AWS asks to retry later", ""]


@pytest.mark.usefixtures("at_once")
def test_unreachable_service_fails_the_run_in_the_end(monkeypatch) -> None:
    monkeypatch.setattr(trainer_secrets, "SERVICE_TIMEOUT", timedelta(seconds=-1))
    resolved, _ = resolver(Values(TransientError("AWS cannot be reached")))
    with pytest.raises(RequestError, match=r"env\.W: secret:w: no answer .* network reach"):
        resolved.resolve({"W": "secret:w"})


@pytest.mark.usefixtures("at_once")
def test_refusal_that_may_be_a_delayed_change_is_retried_a_few_times() -> None:
    refusal = UnreadableSecretError("this machine may not read it", may_pass=True)
    values = Values(refusal, WANDB)
    assert resolver(values)[0].resolve({"W": "secret:w"}) == {"W": WANDB}
    values = Values(refusal)
    with pytest.raises(RequestError, match=r"^env\.W: secret:w: this machine may not read it$"):
        resolver(values)[0].resolve({"W": "secret:w"})
    assert values.calls == trainer_secrets.TRIES
    values = Values(UnreadableSecretError("it is binary"))
    with pytest.raises(RequestError, match="it is binary"):
        resolver(values)[0].resolve({"W": "secret:w"})
    assert values.calls == 1


@pytest.mark.usefixtures("at_once")
def test_notice_ends_the_wait_for_a_secret() -> None:
    mailbox = Mailbox()
    resolved, _ = resolver(Values(TransientError("later")), mailbox=mailbox)
    ending = StopRequest(cause=StopCause.NOTICE, reason="reclaimed", detected=now(), deadline=None)
    threading.Timer(0.2, lambda: mailbox.end(ending)).start()
    with pytest.raises(EndedEarlyError):
        resolved.resolve({"W": "secret:w"})


def test_value_that_no_variable_can_hold_is_refused_without_being_shown() -> None:
    with pytest.raises(RequestError) as caught:
        resolver(Values("a\0b-the-value"))[0].resolve({"W": "secret:w"})
    assert "env.W: secret:w: its value contains a NUL character" in str(caught.value)
    assert "the-value" not in str(caught.value)


def test_values_that_were_read_are_hidden_although_another_cannot_be_read() -> None:
    mask = SecretMask()
    resolved, _ = resolver(Values(WANDB, UnreadableSecretError("it is binary")), mask)
    with pytest.raises(RequestError):
        resolved.resolve({"W": "secret:w", "H": "secret:h"})
    assert mask.apply(f"a {WANDB} b") == "a *** b"
    assert not mask.is_ready


def test_short_values_are_not_masked_and_the_longest_counts() -> None:
    mask = SecretMask()
    mask.hide(["short", "password1", "password1234", PEM])
    assert mask.apply("short password1234 password1") == "short *** ***"
    assert mask.apply("  MIIBsecretline") == "  ***"
    assert mask.apply(PEM) == "***"


def test_own_log_hides_values_in_messages_and_tracebacks(tmp_path: Path) -> None:
    mask = SecretMask()
    mask.hide([WANDB])
    log = OwnLog(tmp_path / "agent.log")
    log.setFormatter(MaskedFormatter(mask))
    logger = logging.Logger("own")
    logger.addHandler(log)
    try:
        raise ValueError(f"bad {WANDB}")
    except ValueError:
        logger.exception("it failed with %s", WANDB)
    text = (tmp_path / "agent.log").read_text()
    assert "it failed with ***" in text
    assert "ValueError: bad ***" in text
    assert WANDB not in text


class Messages:
    """Log streams that keep the text of all events."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def put(self, _stream: str, events: Sequence[tuple[int, str]]) -> None:
        self.messages += [text for _, text in events]


def test_what_an_earlier_agent_left_waits_until_the_secrets_are_known(tmp_path: Path) -> None:
    path, other = tmp_path / "trainer.out", tmp_path / "agent.log"
    path.write_text(f"key {WANDB}\n")
    other.write_text("an agent\n")
    logs, mask = Messages(), SecretMask()
    shipper = LogShipper(logs, streams={"s": [path], "s-agent": [other]}, mask=mask, held=["s"])
    shipper.start()
    wait_until(lambda: "an agent" in logs.messages)
    assert logs.messages == ["an agent"]
    mask.hide([WANDB])
    wait_until(lambda: len(logs.messages) == 2)
    shipper.stop(within=timedelta(seconds=30))
    assert logs.messages == ["an agent", "key ***"]


def test_values_are_in_no_word_of_the_command_that_makes_the_trainers_scope(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = tmp_path / "systemd-run"
    runner.write_text(
        f"#!/bin/bash\nprintf '%s\\n' \"$@\" > {tmp_path}/words\n"
        'while [ "$1" != -- ]; do shift; done; shift; exec "$@"\n'
    )
    runner.chmod(0o755)
    is_dir = Path.is_dir
    monkeypatch.setattr(
        Path, "is_dir", lambda path: str(path) == "/run/systemd/system" or is_dir(path)
    )
    monkeypatch.setattr(systemd_scope.shutil, "which", lambda _name: str(runner))
    ended = threading.Event()
    contract = Contract(
        command=("/bin/sh", "-c", 'printf %s "$W" > value'),
        environment={"PATH": os.environ["PATH"], "W": WANDB},
        working_folder=tmp_path,
        checkpoint=tmp_path,
        output=tmp_path / "out",
        errors=tmp_path / "err",
        save_request=tmp_path / "request",
        grace=timedelta(0),
    )
    assert WANDB not in repr(contract)
    process = HostProcess(contract, on_exit=ended.set)
    assert ended.wait(30)
    assert process.end.code == 0
    assert (tmp_path / "value").read_text() == WANDB
    words = (tmp_path / "words").read_text()
    assert "--scope" in words
    assert "setenv" not in words
    assert WANDB not in words
