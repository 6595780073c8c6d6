"""Failed pulls: what the engine's messages mean, as engines and registries have worded them."""

from __future__ import annotations

import pytest

from runctl.policy.pulling import PullContext, PullFailure, explain, failure_of

CONTEXT = PullContext(reference="r/train:1", login="", platform="linux/amd64")
MESSAGES = {
    "Error response from daemon: manifest for 127.0.0.1:5000/a:b not found: manifest unknown: "
    "manifest unknown": PullFailure.MISSING,
    "Error response from daemon: pull access denied for nobody/none, repository does not exist or "
    "may require 'docker login': denied: requested access to the resource is denied": (
        PullFailure.LOGIN
    ),
    'Error response from daemon: Get "http://127.0.0.1:5000/v2/a/manifests/b": no basic auth '
    "credentials": PullFailure.LOGIN,
    'Error response from daemon: Head "https://r/v2/a/manifests/b": unauthorized: incorrect '
    "username or password": PullFailure.LOGIN,
    "no matching manifest for linux/arm64/v8 in the manifest list entries": PullFailure.PLATFORM,
    "failed to register layer: Error processing tar file(exit status 1): write /lib/x: no space "
    "left on device": PullFailure.DISK,
    "toomanyrequests: You have reached your unauthenticated pull rate limit.": PullFailure.LIMIT,
    'Error response from daemon: Get "https://r/v2/": dial tcp 10.0.0.1:443: connect: connection '
    "refused": PullFailure.UNREACHABLE,
    'Error response from daemon: Get "https://r/v2/": net/http: TLS handshake timeout': (
        PullFailure.UNREACHABLE
    ),
    "received unexpected HTTP status: 503 Service Unavailable": PullFailure.UNREACHABLE,
    "": PullFailure.UNREACHABLE,
}


@pytest.mark.parametrize(("message", "failure"), MESSAGES.items())
def test_message_of_an_engine_has_its_meaning(message: str, failure: PullFailure) -> None:
    assert failure_of(message) is failure
    assert message in explain(failure, CONTEXT, message)


def test_only_what_the_registry_may_change_by_itself_is_tried_again() -> None:
    assert {failure for failure in PullFailure if failure.may_pass} == {
        PullFailure.LIMIT,
        PullFailure.UNREACHABLE,
    }


@pytest.mark.parametrize(
    ("login", "words"),
    [
        ("", "give a login (--docker-login secret:NAME)"),
        ("secret:hub", "it does not accept the login in secret:hub"),
        ("ecr", "the instance role may not pull from this repository"),
    ],
)
def test_remedy_for_a_refused_pull_depends_on_the_login_that_was_used(
    login: str, words: str
) -> None:
    context = PullContext(reference="r/train:1", login=login, platform="linux/amd64")
    assert words in explain(PullFailure.LOGIN, context, "denied")
