"""The logins of registries: the client's configuration, and its helper for ECR.

The configuration is in memory and the agent's own: it has the password of a secret. Tokens of ECR
come from a helper program, which calls the agent and keeps a token until shortly before it expires.
The helper is on the disk, since nothing may be executed in /run.
"""

import base64
import json
import os
import shlex
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import runctl
from runctl.aws.registry_tokens import RegistryToken, RegistryTokens
from runctl.model.errors import RequestError
from runctl.model.image import ECR_LOGIN, Image
from runctl.model.image_reference import parse_image_reference

HELPER = "runctl"
TOKENS = "tokens.json"
# A pull that begins with a token must be able to end with it.
RENEW_BEFORE = timedelta(hours=1)
# Docker Hub's name in the configuration of the client.
DOCKER_HUB = "https://index.docker.io/v1/"
PASSED_ON = (
    "AWS_ENDPOINT_URL", "AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL_LAMBDA", "AWS_ENDPOINT_URL_STS", "RUNCTL_CREDENTIALS_FUNCTION",
    "RUNCTL_DEPLOYMENT", "RUNCTL_REGION", "RUNCTL_ROOT", "RUNCTL_STATE_DIR",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip


def write_login(config: Path, helper: Path, image: Image, secret: str) -> None:
    """Write the configuration with which the client pulls an image.

    `secret` is the value of the image's login, and `helper` the folder for the helper. Raises
    RequestError if the secret is not a login.
    """
    config.mkdir(parents=True, exist_ok=True)
    config.chmod(0o700)
    document: dict[str, Any] = {}
    read = parse_image_reference(image.reference)
    host = DOCKER_HUB if read is None or not read.host else read.host
    if image.login == ECR_LOGIN:
        document["credHelpers"] = {host: HELPER}
        _write_helper(helper)
    elif secret:
        user, password, registry = _read_login(image.login, secret)
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
        document["auths"] = {registry or host: {"auth": pair}}
    _write(config / "config.json", json.dumps(document), 0o600)


def _read_login(reference: str, secret: str) -> tuple[str, str, str]:
    """Return user, password and registry of a login's value."""
    try:
        document = json.loads(secret)
        user, password = str(document["username"]), str(document["password"])
        registry = str(document.get("registry", ""))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise RequestError(
            f'docker.login: the value of {reference} is not {{"username": …, "password": …}}'
        ) from None
    return user, password, registry


def _write_helper(folder: Path) -> None:
    """Write the program that the client asks for ECR's tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    root = Path(runctl.__file__).resolve().parents[1]
    found = [str(root), *(path for path in sys.path if path and Path(path, "botocore").is_dir())]
    program = (
        f"import sys; sys.path[:0] = {found!r}; "
        "from runctl.agent.__main__ import main; sys.exit(main(['registry-login', *sys.argv[1:]]))"
    )
    variables = {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    lines.append(f'exec {shlex.quote(sys.executable)} -I -c {shlex.quote(program)} "$@"')
    _write(folder / f"docker-credential-{HELPER}", "\n".join(["#!/bin/sh", *lines, ""]), 0o700)


def answer_helper(
    config: Path, action: str, host: str, tokens: RegistryTokens, *, region: str
) -> str:
    """Answer the client's request to its helper: `get` returns a login, as JSON.

    `erase` follows a refusal: the next token is a new one. All others change nothing.
    """
    if action == "erase":
        (config / TOKENS).unlink(missing_ok=True)
    if action != "get":
        return ""
    read = parse_image_reference(f"{host}/any")
    where = (read.ecr_region if read else "") or region
    token = _kept_token(config, where) or _new_token(config, where, tokens)
    return json.dumps({"ServerURL": host, "Username": token.user, "Secret": token.password})


def _kept_token(config: Path, region: str) -> RegistryToken | None:
    try:
        kept = json.loads((config / TOKENS).read_text())[region]
        token = RegistryToken(
            user=kept["user"],
            password=kept["password"],
            expires_at=datetime.fromisoformat(kept["expires_at"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    is_fresh = datetime.now(timezone.utc) + RENEW_BEFORE < token.expires_at
    return token if is_fresh else None


def _new_token(config: Path, region: str, tokens: RegistryTokens) -> RegistryToken:
    token = tokens.fetch(region)
    kept = {
        region: {
            "user": token.user,
            "password": token.password,
            "expires_at": token.expires_at.astimezone(timezone.utc).isoformat(),
        }
    }
    _write(config / TOKENS, json.dumps(kept), 0o600)
    return token


def _write(path: Path, text: str, mode: int) -> None:
    """Write a file that nobody else can read, at no moment."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    new.touch(mode, exist_ok=False)
    new.write_text(text)
    new.replace(path)
