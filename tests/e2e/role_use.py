"""The actions that the deployment's roles were allowed on the local cloud, and the list of them."""

from runctl.model.role_calls import ROLE_CALLS, role_of
from tests.e2e.testbed import Testbed


def stack_roles(testbed: Testbed) -> dict[str, str]:
    """Return the names of the deployment's roles, by what the list calls them."""
    pages = testbed.clients.get("cloudformation").get_paginator("list_stack_resources")
    return {
        role_of(found["LogicalResourceId"]) or found["LogicalResourceId"]: found[
            "PhysicalResourceId"
        ]
        for stack in ("storage", "compute", "orchestration")
        for page in pages.paginate(StackName=f"runctl-{stack}")
        for found in page["StackResourceSummaries"]
        if found["ResourceType"] == "AWS::IAM::Role"
    }


def used_actions(testbed: Testbed) -> dict[str, set[str]]:
    """Return the actions that each role was allowed so far."""
    names = {physical: name for name, physical in stack_roles(testbed).items()}
    used: dict[str, set[str]] = {}
    for entry in testbed.cloud.used_permissions():
        if entry["role"] in names:
            used.setdefault(names[entry["role"]], set()).add(entry["action"])
    return used


def unlisted(used: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the actions of each role that the list of what roles do does not have."""
    listed = {name: {required.action for required in calls} for name, calls in ROLE_CALLS.items()}
    rest = {name: actions - listed.get(name, set()) for name, actions in used.items()}
    return {name: actions for name, actions in rest.items() if actions}
