"""Whether the buckets and secrets of the owner that a deployment lists are there for its runs."""

from collections.abc import Iterable, Mapping

from runctl.control.findings import Finding
from runctl.control.ports.deployed_account import DeployedAccount
from runctl.control.verification.installed import Installed
from runctl.policy.bucket_policy import denied_by

_ENABLED = "Enabled"
_SUFFIX = "-??????"


def check_own_bucket(
    account: DeployedAccount, bucket: str, installed: Installed, readers: Mapping[str, str]
) -> list[Finding]:
    """Check that a bucket exists, in this region, and that its policy lets runs use it.

    `readers` are the ARNs of the roles that read it; what those permit is checked with the roles.
    """
    listed = "writable_buckets" if bucket in installed.writable_buckets else "readable_buckets"
    region = account.bucket_region(bucket)
    if region is None:
        advice = f"create it in {installed.region}, or remove it from `{listed}`, and deploy again"
        return [Finding(name=bucket, why="the bucket does not exist", advice=advice)]
    if region != installed.region:
        why = f"it is in {region}, the deployment in {installed.region}"
        advice = f"copy what runs need to {installed.region}, and list that bucket in `{listed}`"
        return [Finding(name=bucket, why=why, advice=advice)]
    policy = account.bucket_policy(bucket)
    calls = [("s3:ListBucket", f"arn:aws:s3:::{bucket}")]
    calls.append(("s3:GetObject", f"arn:aws:s3:::{bucket}/verify"))
    if bucket in installed.writable_buckets:
        calls.append(("s3:PutObject", f"arn:aws:s3:::{bucket}/verify"))
    return [
        Finding(
            name=bucket,
            why=f"its policy denies {', '.join(action for action, _ in denied)} to {name}",
            advice=f"except {arn} from that statement of the bucket's policy",
        )
        for name, arn in readers.items()
        if policy and (denied := denied_by(policy, role=arn, calls=_of(name, calls)))
    ]


def _of(role: str, calls: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return what a role does in such a bucket: trainers only read."""
    return calls[:2] if role == "sessions of trainers" else calls


def check_secret(account: DeployedAccount, arn: str, keys: Iterable[str]) -> list[Finding]:
    """Check that a secret exists, and that runs may use the key that it is encrypted with."""
    name = arn.partition(":secret:")[2]
    found = account.secret(name.removesuffix(_SUFFIX) if name.endswith(_SUFFIX) else arn)
    if found is None:
        return [_missing(name.removesuffix(_SUFFIX), "secret", "secrets")]
    return _problems_with_key(account, name.removesuffix(_SUFFIX), found, keys)


def check_parameter(account: DeployedAccount, arn: str, keys: Iterable[str]) -> list[Finding]:
    """Check that a parameter exists, and that runs may use the key that it is encrypted with."""
    name = parameter_name(arn)
    found = account.parameter_key(name)
    if found is None:
        return [_missing(name, "parameter", "parameters")]
    return _problems_with_key(account, name, found, keys)


def parameter_name(arn: str) -> str:
    """Return the name of a parameter: in ARNs a hierarchy lacks its first slash."""
    name = arn.partition(":parameter/")[2]
    return f"/{name}" if "/" in name else name


def check_key(account: DeployedAccount, arn: str) -> list[Finding]:
    """Check that a key exists and can be used."""
    found = account.key(arn)
    if found is None:
        return [_missing(arn, "key", "secret_keys")]
    if found.state == _ENABLED:
        return []
    why = f"the key is {found.state}; nothing that it encrypts can be read"
    return [Finding(name=arn, why=why, advice="enable it, or encrypt with another one")]


def _problems_with_key(
    account: DeployedAccount, name: str, key: str, keys: Iterable[str]
) -> list[Finding]:
    # Without a name it is the service's own, which every caller in the account may use.
    if not key or key.rpartition(":")[2].startswith("alias/aws/"):
        return []
    found = account.key(key)
    if found is None or not (found.is_of_customer and found.arn not in set(keys)):
        return []
    why = f"it is encrypted with {found.arn}, which `secret_keys` does not list"
    advice = "add the key to `secret_keys` in the CDK context, and deploy again"
    return [Finding(name=name, why=why, advice=advice)]


def _missing(name: str, noun: str, listed: str) -> Finding:
    advice = f"create it, or remove it from `{listed}` in the CDK context, and deploy again"
    return Finding(name=name, why=f"the {noun} does not exist in this region", advice=advice)
