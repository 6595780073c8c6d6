"""Sessions of SSM that forward a port of an instance; the session-manager-plugin carries them."""

import json
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from runctl.aws.errors import code_of, translated
from runctl.model.errors import TransientError

PORT_FORWARDING = "AWS-StartPortForwardingSession"


@dataclass(frozen=True, kw_only=True)
class PortSession:
    """A session that was started. `response` contains its token."""

    session_id: str
    response: str = field(repr=False)
    request: str
    region: str
    endpoint_url: str

    def plugin_arguments(self, response: str, *, profile: str) -> list[str]:
        """Return the arguments of the plugin, as the AWS CLI gives them.

        `response` is the response itself, or the name of a variable that contains it.
        """
        return [response, self.region, "StartSession", profile, self.request, self.endpoint_url]


class PortSessions:
    """Starts and ends sessions."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def start(self, instance_id: str, *, port: int, local_port: int) -> PortSession:
        """Start a session; TransientError while the instance is not connected to SSM.

        A repeated call starts another session. One whose answer was lost ends by itself, because
        no plugin connects to it.
        """
        request = {
            "Target": instance_id,
            "DocumentName": PORT_FORWARDING,
            "Parameters": {"portNumber": [str(port)], "localPortNumber": [str(local_port)]},
        }
        with translated():
            try:
                answer = self._client.start_session(**request)
            except ClientError as exc:
                if code_of(exc) == "TargetNotConnected":
                    raise TransientError(f"{instance_id} is not connected to SSM") from exc
                raise
        response = {name: answer[name] for name in ("SessionId", "TokenValue", "StreamUrl")}
        return PortSession(
            session_id=answer["SessionId"],
            response=json.dumps(response),
            request=json.dumps(request),
            region=self._client.meta.region_name,
            endpoint_url=self._client.meta.endpoint_url,
        )

    def end(self, session_id: str) -> None:
        """End a session; one that has ended already is fine."""
        with translated():
            self._client.terminate_session(SessionId=session_id)
