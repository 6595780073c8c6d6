"""boto3 clients, created when they are first used, with explicit time limits and retries."""

import os
import threading
from dataclasses import dataclass, field
from typing import Any, Protocol

import boto3
import botocore.session
from botocore.config import Config
from botocore.loaders import create_loader

from runctl import __version__
from runctl.aws.errors import translated
from runctl.aws.missing_objects import distinguish_missing

# CreateFleet answers only after the launch was tried in every pool it needed.
READ_TIMEOUTS = {"ec2": 60}
READ_TIMEOUT = 20
CONNECT_TIMEOUT = 5
# What an agent's two sessions, with its role and that of its run, read of botocore's data is parsed
# once, which takes a tenth of a second.
_LOADER = create_loader()
# Answers to a session that has expired, or that AWS does not know any more: an upgrade may replace
# the role of a session, and with a role its sessions end.
EXPIRED = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidToken",
        "UnrecognizedClientException",
    }
)


class CredentialSource(Protocol):
    """A source of credentials, which every request asks for those that are valid then."""

    def load(self) -> Any:
        """Return botocore's credentials, or None if there are none."""
        ...

    def replace_expired(self) -> bool:
        """Return whether a request that AWS calls expired may be repeated with others."""
        ...


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Credentials, region and endpoint; where empty, those of boto3's default chain.

    With a source in `credentials`, those of nothing else are used.
    """

    region: str = ""
    profile: str = ""
    endpoint_url: str = ""
    access_key: str = ""
    secret_key: str = field(default="", repr=False)
    credentials: CredentialSource | None = None


class AnyClients(Protocol):
    """Clients by the names of their services."""

    def get(self, service: str) -> Any:
        """Return the client of a service, such as `dynamodb`."""
        ...


class Clients:
    """The clients of one connection, shared by all threads."""

    def __init__(self, connection: Connection | None = None, *, attempts: int = 5) -> None:
        self._connection = connection or Connection()
        self._attempts = attempts
        self._lock = threading.Lock()
        self._session: Any = None
        self._clients: dict[str, Any] = {}

    def get(self, service: str) -> Any:
        """Return the client of a service, such as `dynamodb`."""
        # Clients are thread-safe, but the session that creates them is not.
        with self._lock, translated():
            if service not in self._clients:
                self._clients[service] = self._create(service)
            return self._clients[service]

    @property
    def region(self) -> str:
        """The region that the clients talk to."""
        return str(self.get("dynamodb").meta.region_name)

    def _create(self, service: str) -> Any:
        connection = self._connection
        if self._session is None:
            core = botocore.session.Session()
            if connection.access_key:
                # The given keys are enough; a profile that the environment names may not exist.
                core = botocore.session.Session(session_vars={"profile": (None, None, None, None)})
            if connection.credentials is not None:
                core.register_component("credential_provider", _Only(connection.credentials))
                core.register_component("data_loader", _LOADER)
            self._session = boto3.Session(
                botocore_session=core,
                region_name=connection.region or None,
                profile_name=connection.profile or None,
                aws_access_key_id=connection.access_key or None,
                aws_secret_access_key=connection.secret_key or None,
            )
        client = self._session.client(
            service,
            endpoint_url=connection.endpoint_url or None,
            config=Config(
                connect_timeout=CONNECT_TIMEOUT,
                read_timeout=READ_TIMEOUTS.get(service, READ_TIMEOUT),
                retries={"mode": "standard", "total_max_attempts": self._attempts},
                max_pool_connections=32,
                # Some calls of Step Functions go to a host of another name, on AWS only.
                inject_host_prefix=not (connection.endpoint_url or _is_elsewhere()),
                tcp_keepalive=True,
                # Every body has a checksum in a signed header and need not be hashed again.
                s3={"payload_signing_enabled": False},
                user_agent_extra=f"runctl/{__version__}",
            ),
        )
        if connection.credentials is not None:
            client.meta.events.register("needs-retry", _Repeat(connection.credentials))
            if service == "s3":
                distinguish_missing(client)
        return client


def _is_elsewhere() -> bool:
    """Whether the environment names an endpoint that is not one of AWS's own."""
    return any(name.startswith("AWS_ENDPOINT_URL") for name in os.environ)


class _Only:
    """What a session of botocore asks for credentials, in place of its chain of providers."""

    def __init__(self, source: CredentialSource) -> None:
        self._source = source

    def load_credentials(self) -> Any:
        return self._source.load()


class _Repeat:
    """Has botocore repeat a request once, which was signed with a session that has ended."""

    def __init__(self, source: CredentialSource) -> None:
        self._source = source

    def __call__(self, *, response: Any, attempts: int, **_: Any) -> float | None:
        """Return the seconds until the request is to be repeated, None if it is not."""
        code = "" if response is None else response[1].get("Error", {}).get("Code", "")
        if attempts > 1 or code not in EXPIRED or not self._source.replace_expired():
            return None
        return 0
