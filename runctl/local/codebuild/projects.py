# ruff: noqa: SLF001 - it completes ministack's records of projects
"""Projects with all their settings, of which ministack keeps only some."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ministack.core.responses import error_response_json
from ministack.services import codebuild
from ministack.services.cloudformation import provisioners

from runctl.local.codebuild.settings import KEPT

Json = dict[str, Any]
_PROJECT = "AWS::CodeBuild::Project"
_REQUIRED = ("name", "source", "artifacts", "environment", "serviceRole")


def install() -> None:
    """Make ministack store all settings of a project that is created or changed. Called once."""
    _complete_calls()
    _complete_resources()


def _keep(name: str, request: Mapping[str, Any]) -> None:
    codebuild._projects[name].update({key: request[key] for key in KEPT if key in request})


def _complete_calls() -> None:
    create, update = codebuild._create_project, codebuild._update_project
    describe = codebuild._project_shape

    def create_project(request: Json) -> Any:
        for name in _REQUIRED:
            if not request.get(name):
                return error_response_json("InvalidInputException", f"{name}: is required", 400)
        answer = create(request)
        if answer[0] == 200:
            _keep(request["name"], request)
        return answer

    def update_project(request: Json) -> Any:
        answer = update(request)
        if answer[0] == 200:
            _keep(request["name"], request)
        return answer

    def project_shape(project: Mapping[str, Any]) -> Json:
        return {**describe(project), **{key: project[key] for key in KEPT if key in project}}

    codebuild._create_project, codebuild._update_project = create_project, update_project
    codebuild._project_shape = project_shape


def _complete_resources() -> None:
    handlers = provisioners._RESOURCE_HANDLERS[_PROJECT]
    create, update = handlers["create"], handlers["update"]

    def create_resource(logical_id: str, properties: Json, stack: str) -> Any:
        made = create(logical_id, properties, stack)
        _keep(made[0], provisioners._codebuild_cfn_to_api(properties))
        return made

    def update_resource(physical_id: str, old: Json, new: Json, stack: str) -> Any:
        made = update(physical_id, old, new, stack)
        for key in KEPT:
            codebuild._projects[made[0]].pop(key, None)
        _keep(made[0], provisioners._codebuild_cfn_to_api(new))
        return made

    handlers.update(create=create_resource, update=update_resource)
