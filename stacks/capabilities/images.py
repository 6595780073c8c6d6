"""The capabilities of container images: the registry and its builds."""

from __future__ import annotations

from stacks.capabilities.base import (
    CapabilitiesBase,
    Capability,
    allow,
)


class ImageCapabilities(CapabilitiesBase):
    """What functions may do with container images."""

    def find_images(self) -> Capability:
        """Look up images in ECR, in this account and in others that permit it."""
        images = self._storage.images
        return Capability(
            statements=[
                allow(
                    ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
                    [f"arn:aws:ecr:{self._settings.region}:*:repository/*"],
                )
            ],
            variables={"RUNCTL_IMAGE_REPOSITORY": images.repository_uri},
        )

    def order_builds(self) -> Capability:
        """Describe the build of an image, which the state machine starts."""
        images = self._storage.images
        return Capability(
            variables={
                "RUNCTL_CACHE_REPOSITORY": images.cache_uri,
                "RUNCTL_BUILD_PROJECTS": self._stack.to_json_string(
                    {name: project.project_name for name, project in images.projects.items()}
                ),
                "RUNCTL_IMAGE_MIRROR": images.mirror,
                "RUNCTL_LOG_GROUP": self._storage.trainer_logs.log_group_name,
            }
        )

    def read_builds(self) -> Capability:
        """Read how a build ended, and its log."""
        images, group = self._storage.images, self._storage.trainer_logs.log_group_name
        region, account = self._settings.region, self._settings.account
        streams = f"arn:aws:logs:{region}:{account}:log-group:{group}:log-stream:*"
        return Capability(
            statements=[
                allow(
                    ["codebuild:BatchGetBuilds"],
                    [project.project_arn for project in images.projects.values()],
                ),
                allow(["logs:GetLogEvents"], [streams]),
            ]
        )

    def delete_images(self) -> Capability:
        """List and delete images of builds."""
        images = self._storage.images
        return Capability(
            statements=[
                allow(
                    ["ecr:DescribeImages", "ecr:BatchDeleteImage"],
                    [images.repository.repository_arn],
                )
            ],
            variables={"RUNCTL_IMAGE_REPOSITORY": images.repository_uri},
        )
