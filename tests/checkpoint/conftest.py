"""A bucket, a table and a log group by moto on 127.0.0.1, like those of the agent's tests."""

from tests.agent.conftest import cloud, endpoint

__all__ = ["cloud", "endpoint"]
