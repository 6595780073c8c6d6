"""SNS: the topic for messages to people."""

from typing import Any

from runctl.aws.errors import translated


class SnsNotices:
    """Implements `runctl.control.ports.Notices`.

    botocore repeats a call that was throttled or whose answer was lost, so a message may arrive
    twice: a standard topic accepts no deduplication id. A call that still fails raises, with
    TransientError if a later call may succeed.
    """

    def __init__(self, client: Any, *, topic_arn: str) -> None:
        self._client = client
        self._topic_arn = topic_arn

    def publish(self, *, subject: str, body: str) -> None:
        """Send a message to all subscribers; a repeated call sends it again."""
        with translated():
            self._client.publish(TopicArn=self._topic_arn, Subject=subject, Message=body)
