"""The credentials of a build's role are for its own programs only."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

import botocore.session
import pytest

from runctl.local.codebuild import credentials
from tests.local.strangers import needs_another_user, request, send_as_stranger

SESSION = {
    "AWS_ACCESS_KEY_ID": "ASIAKEY",
    "AWS_SECRET_ACCESS_KEY": "the-secret",
    "AWS_SESSION_TOKEN": "the-token",
}
ROLE = "arn:aws:iam::000000000000:role/builder"
URL, TOKEN = "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN"


@pytest.fixture
def variables() -> Iterator[dict[str, str]]:
    with credentials.served(SESSION, ROLE) as found:
        yield found


def test_sdks_find_them_by_the_variables(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = botocore.session.Session().get_credentials().get_frozen_credentials()
    assert tuple(found[:3]) == tuple(SESSION.values())


@pytest.mark.parametrize("token", ["", "wrong"])
def test_the_token_is_required(variables: dict[str, str], token: str) -> None:
    asked = urllib.request.Request(variables[URL], headers={"Authorization": token})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(asked)
    with caught.value as answer:
        assert (answer.code, json.load(answer)) == (403, {"code": "Forbidden"})


@needs_another_user
def test_another_user_gets_nothing_even_with_the_token(variables: dict[str, str]) -> None:
    url = urlsplit(variables[URL])
    token = {"Authorization": variables[TOKEN]}
    answers = send_as_stranger(request(url.port, "GET", url.path, headers=token))
    assert answers == [(403, '{"code": "Forbidden"}')]


def test_they_are_gone_with_the_build() -> None:
    with credentials.served(SESSION, ROLE) as found:
        pass
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(found[URL])
