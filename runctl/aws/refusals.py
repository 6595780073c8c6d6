"""Explanations of AWS's refusals: which permission or setting is missing, and the remedy."""

import re

_DENIED = re.compile(
    r"(?:(?:User|Role|Principal)?:? ?(?P<who>arn:[^\s,]+) )?is not authorized to perform:? "
    r"(?P<action>[\w-]+:[\w*]+)(?: on resource: (?P<what>[^\s,]+))?"
)
# EC2 appends hundreds of characters that only `aws sts decode-authorization-message` can read.
_ENCODED = re.compile(r"\s*Encoded authorization failure message: \S+")

_SETTINGS = {
    "SsmAccessDenied": "EC2 may not read the parameter that names the image of the launch template "
    "(resolve:ssm): the role that launches needs the permission ssm:GetParameters on that "
    "parameter, which the deployment grants; deploy again, and check whether a permissions "
    "boundary or a service control policy denies it",
    "ServiceLinkedRoleCreationNotPermitted": "the account has no service-linked role for EC2 Spot, "
    "and this role may not create it; create it once: "
    "aws iam create-service-linked-role --aws-service-name spot.amazonaws.com",
    "OptInRequired": "the account has not signed up for this service, or not enabled this region; "
    "enable it in the account's settings",
    "PendingVerification": "AWS is still verifying the account for this region, which takes "
    "minutes, 4 hours at most; try again then",
    "Blocked": "AWS has blocked the account from launching instances; contact AWS Support",
}


def explain_refusal(code: str, message: str) -> str:
    """Return one sentence about a refusal: what is missing, for which role, and the remedy."""
    setting = _SETTINGS.get(code.removeprefix("AuthFailure."))
    if setting is not None:
        return f"{setting} ({code})"
    if found := _DENIED.search(message):
        who = f" for {found['who']}" if found["who"] else ""
        what = f" on {found['what']}" if found["what"] else ""
        denied = "an explicit deny forbids it" if "explicit deny" in message else "it is missing"
        return (
            f"the permission {found['action']}{what} was refused{who}, since {denied}; change the "
            f"policies of that role ({code})"
        )
    explanation = _ENCODED.sub("", message).strip().rstrip(".")
    return f"AWS refused the call: {explanation} ({code})"
