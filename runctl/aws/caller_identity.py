"""Who signed a presigned request to STS: a proof of identity that can be used for nothing else.

The signer sends no credentials. It presigns `GetCallerIdentity`, whose answer names the session
that has signed it, and a header with the name of the deployment is part of the signature, so that
the proof is worthless anywhere else. Its sender may be hostile: nothing is requested but this
one call, of this one host.
"""

import http.client
import re
import ssl
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from urllib.parse import parse_qsl, urlsplit

from runctl.model.caller import BadIdentityError, Caller
from runctl.model.errors import TransientError

HEADER = "x-runctl-deployment"
ACTION = {"Action": "GetCallerIdentity", "Version": "2011-06-15"}
# The parameters of a presigned request; a session of a role always has a token.
SIGNATURE = frozenset(
    {
        "X-Amz-Algorithm",
        "X-Amz-Credential",
        "X-Amz-Date",
        "X-Amz-Expires",
        "X-Amz-Security-Token",
        "X-Amz-SignedHeaders",
        "X-Amz-Signature",
    }
)
MAX_LIFETIME = timedelta(seconds=60)
MAX_SKEW = timedelta(seconds=60)
TIMEOUT = 3
MAX_ANSWER_BYTES = 16 * 1024

_DATE = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_SECONDS = re.compile(r"[1-9][0-9]{0,2}")
_ARN = re.compile(
    r"<Arn>arn:aws[a-z-]*:sts::(?P<account>[0-9]{12}):assumed-role/(?P<role>[\w+=,.@-]{1,64})/"
    r"(?P<session>[\w+=,.@-]{2,64})</Arn>",
    re.ASCII,
)


def regional_endpoint(region: str) -> str:
    """Return the endpoint of STS in a region."""
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://sts.{region}.{suffix}"


class CallerIdentities:
    """Implements `runctl.control.ports.access.Identities` for one deployment.

    `endpoint` is that of STS, and identities for any other are refused.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        deployment: str,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self._endpoint = urlsplit(endpoint)
        self._deployment = deployment
        self._now = now

    def verify(self, url: str) -> Caller:
        """Return who signed a request to STS; BadIdentityError if it is not one or not valid."""
        query = self._check(url)
        body = self._ask(query)
        found = _ARN.findall(body)
        if len(found) != 1:
            raise BadIdentityError("identity.url: not signed by a session of a role")
        account, role, session = found[0]
        return Caller(account=account, role=role, session=session)

    def _check(self, url: str) -> str:
        """Return the query of a URL that has nothing but the presigned call."""
        if not url.isascii() or not url.isprintable() or "#" in url:
            raise BadIdentityError("identity.url: not a URL")
        scheme, rest = f"{self._endpoint.scheme}://", f"{self._endpoint.netloc}/?"
        # Compared as text: what different parsers make of a strange host does not matter.
        if not url.startswith(scheme + rest):
            raise BadIdentityError(f"identity.url: not a request to {scheme}{rest}")
        query = url.removeprefix(scheme + rest)
        try:
            pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, max_num_fields=20)
        except ValueError:
            raise BadIdentityError("identity.url: the query cannot be read") from None
        found = dict(pairs)
        if len(pairs) != len(found) or found.keys() != ACTION.keys() | SIGNATURE:
            raise BadIdentityError(
                "identity.url: has other parameters than a presigned GetCallerIdentity, or one of "
                "them twice"
            )
        if {name: found[name] for name in ACTION} != ACTION:
            raise BadIdentityError("identity.url: is not a GetCallerIdentity of 2011-06-15")
        self._check_signature(found)
        return query

    def _check_signature(self, found: Mapping[str, str]) -> None:
        headers = found["X-Amz-SignedHeaders"].split(";")
        if sorted(headers) != ["host", HEADER]:
            raise BadIdentityError(f"identity.url: signs other headers than host and {HEADER}")
        if not _DATE.fullmatch(found["X-Amz-Date"]) or not _SECONDS.fullmatch(
            found["X-Amz-Expires"]
        ):
            raise BadIdentityError("identity.url: X-Amz-Date or X-Amz-Expires cannot be read")
        lifetime = timedelta(seconds=int(found["X-Amz-Expires"]))
        if lifetime > MAX_LIFETIME:
            raise BadIdentityError(
                f"identity.url: is valid for more than {MAX_LIFETIME.seconds} seconds"
            )
        try:
            signed_at = datetime.strptime(f"{found['X-Amz-Date']}+0000", "%Y%m%dT%H%M%SZ%z")
        except ValueError:
            raise BadIdentityError("identity.url: X-Amz-Date is not a valid time") from None
        age = self._now() - signed_at
        # STS itself accepts a signature for 15 minutes, whatever it says.
        if age > lifetime + MAX_SKEW or age < -MAX_SKEW:
            raise BadIdentityError(
                "identity.url: has expired, or the clock of the instance is wrong"
            )

    def _ask(self, query: str) -> str:
        """Send the call with this deployment's name; redirects are not followed."""
        connection = self._connect()
        try:
            connection.request("GET", f"/?{query}", headers={HEADER: self._deployment})
            answer = connection.getresponse()
            body = answer.read(MAX_ANSWER_BYTES + 1)
        except (OSError, http.client.HTTPException) as exc:
            raise TransientError(f"STS cannot be reached: {type(exc).__name__}") from exc
        finally:
            connection.close()
        if answer.status == 429 or answer.status >= 500:
            raise TransientError(f"STS asks to retry later: {answer.status}")
        if answer.status != 200:
            raise BadIdentityError(
                f"identity.url: refused by STS ({answer.status}), such as for another deployment "
                "or after it has expired"
            )
        if len(body) > MAX_ANSWER_BYTES:
            raise BadIdentityError(
                f"identity.url: the answer has more than {MAX_ANSWER_BYTES:,} bytes"
            )
        return body.decode("utf-8", "replace")

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._endpoint.hostname or "", self._endpoint.port
        if self._endpoint.scheme == "https":
            return http.client.HTTPSConnection(
                host, port, timeout=TIMEOUT, context=ssl.create_default_context()
            )
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT)
