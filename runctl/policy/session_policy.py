"""The policy of a run's session: of what all runs may read, only what its request names.

The role of the session limits it to its own run already, by the tags of the session. This policy
takes away everything that the role permits for the sake of other requests: the code, inputs,
outputs, checkpoints and secrets that this request does not name.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runctl.model import identity
from runctl.model.errors import InvalidRequestError, Problem
from runctl.model.input_sources import parse_input
from runctl.model.kinds import PROCESS
from runctl.model.request import RunRequest
from runctl.model.secret_references import Store, parse_reference

# API_AssumeRole: the longest policy. STS packs it with the tags of the session, and may refuse a
# shorter one too: then SHORT is tried.
MAX_CHARACTERS = 2048
SHORT = 1024
# Prefixes of the deployment's bucket that belong to no run: keys below them may be widened to them.
SHARED = (identity.INPUTS_PREFIX, identity.OUTPUTS_PREFIX)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the resources of a deployment are."""

    bucket: str
    region: str
    account: str
    partition: str = "aws"

    def objects(self, bucket: str, pattern: str = "") -> str:
        """Return the ARN of a bucket, or of its objects whose keys match a pattern."""
        return f"arn:{self.partition}:s3:::{bucket}{f'/{pattern}' if pattern else ''}"


@dataclass(frozen=True)
class _Sources:
    """The patterns of the keys that a request names, in the own bucket and in others."""

    own: tuple[str, ...]
    others: tuple[tuple[str, str], ...]
    any_other: bool = False


def run_policy(
    request: RunRequest, run_id: str, place: Place, *, most: int = MAX_CHARACTERS
) -> str:
    """Return the policy of the session of a run's agent.

    If it is too long, keys in other buckets give way to those buckets, keys of shared prefixes to
    the prefixes, then secrets to those that the deployment lists, and other buckets to those that
    the deployment lists; never what is named of another run to more of it. Raises
    InvalidRequestError if that is not enough.
    """
    exact = _sources(request, place)
    wide = _widened(exact)
    secrets = tuple(_secrets(request, place))
    for sources, named in (
        (exact, secrets),
        (wide, secrets),
        (wide, ("*",) if secrets else ()),
        (_Sources(wide.own, (), any_other=bool(wide.others)), ("*",) if secrets else ()),
    ):
        text = _text(list(_statements(request, run_id, place, sources, named)))
        if len(text) <= most:
            return text
    problem = (
        f"the session of the run cannot name {len(wide.own)} objects of other runs: its policy "
        f"would have {len(text):,} of {most:,} characters; copy them below one prefix of "
        f"{identity.INPUTS_PREFIX}"
    )
    raise InvalidRequestError((Problem("inputs", problem),))


def problems_with_session(request: RunRequest, run_id: str, place: Place) -> tuple[Problem, ...]:
    """Return why no session could be limited to what a request names, before a run has begun.

    STS may still refuse a policy that is short enough: only its answer says how well it packs.
    """
    try:
        run_policy(request, run_id, place)
    except InvalidRequestError as exc:
        return exc.problems
    return ()


def warm_policy(place: Place, *, table: str) -> str:
    """Return the policy of the session of an instance that waits for another run of its group."""
    return _text(
        [
            {
                "Action": ["dynamodb:GetItem", "dynamodb:UpdateItem"],
                "Resource": _table(place, table),
                "Condition": {
                    "ForAllValues:StringLike": {"dynamodb:LeadingKeys": "WARM#*"},
                    "Null": {"dynamodb:LeadingKeys": "false"},
                },
            }
        ]
    )


def trainer_policy(run_id: str, place: Place) -> str:
    """Return the policy of the session that a trainer is given.

    It may read all objects of its own run and write its outputs, but never checkpoints, whose parts
    and pointer only the agent with the fence may write. In other buckets it may do whatever the
    role permits.
    """
    bucket = place.objects(place.bucket)
    own, outputs = identity.run_prefix(run_id), identity.output_prefix(run_id)
    return _text(
        [
            {"Action": "s3:GetObject", "Resource": f"{bucket}/{own}*"},
            {
                "Action": ["s3:PutObject", "s3:AbortMultipartUpload"],
                "Resource": f"{bucket}/{outputs}*",
            },
            {
                "Action": "s3:ListBucket",
                "Resource": bucket,
                "Condition": {"StringLike": {"s3:prefix": f"{own}*"}},
            },
            {
                "Action": ["s3:GetObject", "s3:ListBucket"],
                "NotResource": [bucket, f"{bucket}/*"],
            },
        ]
    )


def _statements(
    request: RunRequest, run_id: str, place: Place, sources: _Sources, secrets: tuple[str, ...]
) -> Iterator[Mapping[str, Any]]:
    # The role limits each of these to the run by the tags of the session.
    services = ["dynamodb:*", "logs:*", "states:*"]
    if request.docker.is_used:
        services.append("ecr:*")
    if request.trial.may_be_pruned:
        services.append("lambda:InvokeFunction")
    yield {"Action": services, "Resource": "*"}
    patterns = [
        f"{identity.run_prefix(run_id)}*",
        f"{identity.ENVIRONMENTS}*",
        *sources.own,
    ]
    if job := job_of(request):
        patterns += [f"{identity.shards_prefix(job)}*", f"{_checkpoints_of_shards(job)}*"]
    if reference := request.evaluate.reference:
        patterns.append(f"{identity.run_prefix(reference.run_id)}checkpoints/*")
    yield {"Action": "s3:*", "Resource": [place.objects(place.bucket, each) for each in patterns]}
    yield {
        "Action": "s3:ListBucket",
        "Resource": place.objects(place.bucket),
        "Condition": {"StringLike": {"s3:prefix": patterns}},
    }
    if sources.any_other:
        own = place.objects(place.bucket)
        yield {"Action": "s3:*", "NotResource": [own, f"{own}/*"]}
    elif sources.others:
        buckets = dict.fromkeys(place.objects(bucket) for bucket, _ in sources.others)
        named = [place.objects(bucket, pattern) for bucket, pattern in sources.others]
        yield {"Action": "s3:*", "Resource": [*buckets, *named]}
    if secrets:
        yield {
            "Action": ["secretsmanager:GetSecretValue", "ssm:GetParameter"],
            "Resource": list(secrets),
        }
        # Only with the keys that the role names, and only through these services.
        yield {"Action": "kms:Decrypt", "Resource": "*"}


def job_of(request: RunRequest) -> str:
    """Return the processing job that a run does a part of; empty for any other run."""
    is_part = request.kind == PROCESS and request.process.shard_count > 0
    return request.group if is_part else ""


def followed_by(request: RunRequest) -> str:
    """Return the run each of whose checkpoints a run evaluates; empty for any other run."""
    reference = request.evaluate.reference
    return reference.run_id if reference and request.evaluate.every_checkpoint else ""


def _checkpoints_of_shards(job: str) -> str:
    return identity.shard_checkpoint_key(job, 0).rpartition("/")[0] + "/"


def _sources(request: RunRequest, place: Place) -> _Sources:
    uris = [
        request.program.code,
        # A script is a file of the project, or a URI instead of a project.
        request.program.script if request.program.script.startswith("s3://") else "",
        request.docker.archive,
        *request.staged_inputs.values(),
        request.process.input,
        request.process.output,
        request.evaluate.output_prefix,
    ]
    own: list[str] = []
    others: list[tuple[str, str]] = []
    for uri in filter(None, uris):
        source = parse_input(uri)
        pattern = f"{pattern_of(source.key)}{'*' if source.is_prefix else ''}"
        if source.bucket == place.bucket:
            own.append(pattern)
        else:
            others.append((source.bucket, pattern))
    return _Sources(tuple(dict.fromkeys(own)), tuple(dict.fromkeys(others)))


def _widened(sources: _Sources) -> _Sources:
    own = (_widest(pattern) for pattern in sources.own)
    others = ((bucket, "*") for bucket, _ in sources.others)
    return _Sources(tuple(dict.fromkeys(own)), tuple(dict.fromkeys(others)))


def _widest(pattern: str) -> str:
    """Return the widest pattern that a key of the own bucket may give way to; others stay exact."""
    for prefix in SHARED:
        if pattern.startswith(prefix):
            return f"{prefix}*"
    return pattern


def pattern_of(key: str) -> str:
    """Return the pattern in a policy that only this key matches, as far as policies can say that.

    A policy has no character above U+00FF: any one character may stand in place of such a one.
    """
    special = {"*": "${*}", "?": "${?}", "$": "${$}"}
    return "".join(
        special.get(character, character if " " <= character <= "\xff" else "?")
        for character in key
    )


def _secrets(request: RunRequest, place: Place) -> Iterator[str]:
    references = [*request.program.env.values(), request.docker.login]
    for reference in filter(None, map(_read, references)):
        name = reference.name
        if name.startswith("arn:"):
            # The ARN of a secret may lack its last seven characters, that of a parameter not.
            yield f"{name}*" if reference.store is Store.SECRETS_MANAGER else _unversioned(name)
        elif reference.store is Store.SECRETS_MANAGER:
            yield f"{_regional(place, 'secretsmanager')}:secret:{pattern_of(name)}*"
        else:
            path = pattern_of(name.partition(":")[0].lstrip("/"))
            yield f"{_regional(place, 'ssm')}:parameter/{path}"


def _read(value: str) -> Any:
    try:
        return parse_reference(value)
    except ValueError:
        return None


def _unversioned(arn: str) -> str:
    return ":".join(arn.split(":")[:6])


def _regional(place: Place, service: str) -> str:
    return f"arn:{place.partition}:{service}:{place.region}:{place.account}"


def _table(place: Place, table: str) -> str:
    return f"{_regional(place, 'dynamodb')}:table/{table}"


def _text(statements: Iterable[Mapping[str, Any]]) -> str:
    document = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", **statement} for statement in statements],
    }
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)
