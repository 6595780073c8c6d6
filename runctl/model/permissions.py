"""The permissions that each API call needs, as data for `verify`, the local cloud and the tests.

Sources: pages of the Service Authorization Reference, `list_<service>.html`, and user guides.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Required:
    """An action that a call needs, on each resource that its templates name.

    A template's `{placeholder}` stands for every value of that fact about the call; a template with
    a fact without values requires nothing. `conditions` are the condition keys that the service
    sets for the check; `{region}` in their values is the call's region. `on_launch` marks what EC2
    checks while a fleet launches: a denial is then an error of the override, in a response with
    status 200. `refused_as` is the error code if it is not the service's usual one.
    """

    action: str
    resources: tuple[str, ...] = ("*",)
    conditions: Mapping[str, str] = field(default_factory=dict)
    on_launch: bool = False
    refused_as: str | None = None

    def on(self, facts: Mapping[str, Sequence[str]]) -> Iterator[str]:
        """Yield the resources: the templates with every combination of the facts they name."""
        for template in self.resources:
            names = [name for _, name, _, _ in string.Formatter().parse(template) if name]
            for values in itertools.product(*(facts.get(name, ()) for name in names)):
                yield template.format(**dict(zip(names, values, strict=True)))


_EC2 = "arn:aws:ec2:{region}:{account}"
_SSM = "arn:aws:ssm:{region}:{account}"
_FIS = "arn:aws:fis:{region}:{account}"
_REPOSITORY = "arn:aws:ecr:{region}:{account}:repository/{repository}"
# list_amazonelasticcontainerregistry.html: these are checked on the repository
_ON_REPOSITORIES = (
    "BatchCheckLayerAvailability", "BatchDeleteImage", "BatchGetImage", "CompleteLayerUpload",
    "DescribeImages", "GetDownloadUrlForLayer", "InitiateLayerUpload", "ListImages", "PutImage",
    "UploadLayerPart",
)  # fmt: skip

REQUIRED: Mapping[tuple[str, str], tuple[Required, ...]] = {
    # list_amazonec2.html: CreateFleet; ec2-fleet-prerequisites.html: what its caller needs
    ("ec2", "CreateFleet"): (
        Required("ec2:CreateFleet", (f"{_EC2}:fleet/*", f"{_EC2}:launch-template/{{template}}")),
        Required("ec2:CreateTags", (f"{_EC2}:{{tagged}}/*",), {"ec2:CreateAction": "CreateFleet"}),
        # list_amazonec2.html: RunInstances, its resource types for a launch into a subnet
        Required(
            "ec2:RunInstances",
            (
                f"{_EC2}:instance/*",
                f"{_EC2}:network-interface/*",
                f"{_EC2}:volume/*",
                f"{_EC2}:{{spot_request}}/*",
                f"{_EC2}:launch-template/{{template}}",
                f"{_EC2}:subnet/{{subnet}}",
                f"{_EC2}:security-group/{{group}}",
                f"{_EC2}:placement-group/{{placement_group}}",
                "arn:aws:ec2:{region}::image/{image}",
            ),
            on_launch=True,
        ),
        Required(
            "ec2:CreateTags",
            (f"{_EC2}:{{tagged}}/*",),
            {"ec2:CreateAction": "RunInstances"},
            on_launch=True,
        ),
        # service-linked-roles-spot-instance-requests.html: the account's first spot launch makes it
        Required(
            "iam:CreateServiceLinkedRole",
            ("arn:aws:iam::{account}:role/aws-service-role/spot.amazonaws.com/{missing_role}",),
            {"iam:AWSServiceName": "spot.amazonaws.com"},
            on_launch=True,
            refused_as="ServiceLinkedRoleCreationNotPermitted",
        ),
        # list_awsidentityandaccessmanagement.html: PassRole, a permission without an API call
        Required(
            "iam:PassRole",
            ("{role}",),
            {"iam:PassedToService": "ec2.amazonaws.com"},
            on_launch=True,
        ),
        # create-launch-template.html: the caller that launches needs it for "resolve:ssm"
        Required(
            "ssm:GetParameters",
            ("arn:aws:ssm:{region}::parameter{parameter}",),
            refused_as="SsmAccessDenied",
        ),
    ),
    # ebs-encryption-requirements.html: what the launching caller needs on a customer managed key
    ("ec2", "UseVolumeKey"): (
        *(
            Required(f"kms:{use}", ("{key}",), {"kms:ViaService": "ec2.{region}.amazonaws.com"})
            for use in (
                "Decrypt",
                "DescribeKey",
                "GenerateDataKeyWithoutPlaintext",
                "ReEncryptFrom",
                "ReEncryptTo",
            )
        ),
        Required(
            "kms:CreateGrant",
            ("{key}",),
            {
                "kms:ViaService": "ec2.{region}.amazonaws.com",
                "kms:GrantIsForAWSResource": "true",
            },
        ),
    ),
    # list_amazonec2.html: the Describe actions have no resource types
    ("ec2", "DescribeFleets"): (Required("ec2:DescribeFleets"),),
    ("ec2", "DescribeVolumes"): (Required("ec2:DescribeVolumes"),),
    ("ec2", "DeleteVolume"): (Required("ec2:DeleteVolume", (f"{_EC2}:volume/{{volume}}",)),),
    ("ec2", "DescribeTags"): (Required("ec2:DescribeTags"),),
    ("ec2", "DescribeInstances"): (Required("ec2:DescribeInstances"),),
    ("ec2", "DescribeInstanceStatus"): (Required("ec2:DescribeInstanceStatus"),),
    ("ec2", "DescribeSpotPriceHistory"): (Required("ec2:DescribeSpotPriceHistory"),),
    ("ec2", "DescribeInstanceTypeOfferings"): (Required("ec2:DescribeInstanceTypeOfferings"),),
    ("ec2", "DescribeImages"): (Required("ec2:DescribeImages"),),
    # The account's settings have no resource types either.
    ("ec2", "GetEbsDefaultKmsKeyId"): (Required("ec2:GetEbsDefaultKmsKeyId"),),
    ("ec2", "ModifyEbsDefaultKmsKeyId"): (Required("ec2:ModifyEbsDefaultKmsKeyId"),),
    ("ec2", "DescribeInstanceTypes"): (Required("ec2:DescribeInstanceTypes"),),
    # list_amazonec2.html: these are checked on the fleet or the instance
    ("ec2", "DeleteFleets"): (Required("ec2:DeleteFleets", (f"{_EC2}:fleet/{{fleet}}",)),),
    ("ec2", "TerminateInstances"): (
        Required("ec2:TerminateInstances", (f"{_EC2}:instance/{{instance}}",)),
    ),
    ("ec2", "GetConsoleOutput"): (
        Required("ec2:GetConsoleOutput", (f"{_EC2}:instance/{{instance}}",)),
    ),
    ("ec2", "CreateTags"): (Required("ec2:CreateTags", (f"{_EC2}:instance/{{instance}}",)),),
    ("ec2", "DeleteTags"): (Required("ec2:DeleteTags", (f"{_EC2}:instance/{{instance}}",)),),
    # list_awssystemsmanager.html: SendCommand is checked on the document and on every instance
    ("ssm", "SendCommand"): (
        Required(
            "ssm:SendCommand",
            (
                f"{_SSM}:document/{{document}}",
                "arn:aws:ssm:{region}::document/{public_document}",
                f"{_EC2}:instance/{{instance}}",
            ),
        ),
    ),
    # list_awssystemsmanager.html: no resource types
    ("ssm", "GetCommandInvocation"): (Required("ssm:GetCommandInvocation"),),
    ("ssm", "ListCommandInvocations"): (Required("ssm:ListCommandInvocations"),),
    ("ssm", "ListCommands"): (Required("ssm:ListCommands"),),
    ("ssm", "DescribeInstanceInformation"): (Required("ssm:DescribeInstanceInformation"),),
    # list_awssystemsmanager.html: public parameters belong to no account
    ("ssm", "GetParameter"): (
        Required("ssm:GetParameter", ("arn:aws:ssm:{region}::parameter{parameter}",)),
    ),
    ("ssm", "GetParameters"): (
        Required("ssm:GetParameters", ("arn:aws:ssm:{region}::parameter{parameter}",)),
    ),
    # setup-instance-permissions.html: what the agent needs from the instance's role
    ("ssm-agent", "register"): (
        Required("ssm:UpdateInstanceInformation"),
        Required("ec2messages:GetMessages"),
        Required("ssmmessages:OpenControlChannel"),
    ),
    # list_awssystemsmanager.html: StartSession is checked on the instance and on the document;
    # documents of AWS belong to no account
    ("ssm", "StartSession"): (
        Required(
            "ssm:StartSession",
            (
                f"{_EC2}:instance/{{instance}}",
                "arn:aws:ssm:{region}::document/{public_document}",
            ),
        ),
    ),
    ("ssm", "TerminateSession"): (
        Required("ssm:TerminateSession", (f"{_SSM}:session/{{session}}",)),
    ),
    # setup-instance-permissions.html: what the agent needs for sessions
    ("ssm-agent", "session"): (
        Required("ssmmessages:CreateDataChannel"),
        Required("ssmmessages:OpenDataChannel"),
    ),
    # list_servicequotas.html: reading has no resource types
    ("servicequotas", "GetServiceQuota"): (Required("servicequotas:GetServiceQuota"),),
    ("servicequotas", "GetAWSDefaultServiceQuota"): (
        Required("servicequotas:GetAWSDefaultServiceQuota"),
    ),
    # list_amazonelasticcontainerregistry.html: no resource types
    ("ecr", "GetAuthorizationToken"): (Required("ecr:GetAuthorizationToken"),),
    **{("ecr", name): (Required(f"ecr:{name}", (_REPOSITORY,)),) for name in _ON_REPOSITORIES},
    # list_amazonsns.html: on the topic; a topic with a customer managed key would also need kms:
    ("sns", "Publish"): (Required("sns:Publish", ("{topic}",)),),
    # list_awsidentityandaccessmanagement.html: on the principal whose policies are evaluated
    ("iam", "SimulatePrincipalPolicy"): (
        Required("iam:SimulatePrincipalPolicy", ("{principal}",), refused_as="AccessDenied"),
    ),
    # list_awslambda.html: what a state machine's role needs for a lambda:invoke task
    ("states", "lambda:invoke"): (Required("lambda:InvokeFunction", ("{function}",)),),
    # list_awsstepfunctions.html and stepfunctions-iam.html: waiting for a nested execution
    ("states", "states:startExecution.sync:2"): (
        Required("states:StartExecution", ("{machine}",)),
        Required("states:DescribeExecution", ("{execution}",)),
        Required("states:StopExecution", ("{execution}",)),
        Required("events:PutTargets", ("{rule}",)),
        Required("events:PutRule", ("{rule}",)),
        Required("events:DescribeRule", ("{rule}",)),
    ),
    # iam-policies-eg-dist-map.html: what a Distributed Map needs of its state machine's role
    ("states", "map"): (Required("states:StartExecution", ("{machine}",)),),
    ("states", "map:redrive"): (Required("states:RedriveExecution", ("{execution}",)),),
    ("states", "map:getObject"): (Required("s3:GetObject", ("{object}",)),),
    ("states", "map:listObjectsV2"): (
        Required("s3:ListBucket", ("{bucket}",), {"s3:prefix": "{prefix}"}),
    ),
    ("states", "map:putObject"): (
        Required("s3:PutObject", ("{object}",)),
        Required("s3:GetObject", ("{object}",)),
        Required("s3:AbortMultipartUpload", ("{object}",)),
        Required("s3:ListMultipartUploadParts", ("{object}",)),
    ),
    # list_awscodebuild.html: a build belongs to its project
    ("states", "codebuild:startBuild"): (Required("codebuild:StartBuild", ("{project}",)),),
    # connect-codebuild.html: waiting for a build
    ("states", "codebuild:startBuild.sync"): (
        Required("codebuild:StartBuild", ("{project}",)),
        Required("codebuild:StopBuild", ("{project}",)),
        Required("codebuild:BatchGetBuilds", ("{project}",)),
        Required("events:PutTargets", ("{rule}",)),
        Required("events:PutRule", ("{rule}",)),
        Required("events:DescribeRule", ("{rule}",)),
    ),
    # fis-actions-reference.html: what the action needs of the experiment's role
    ("fis", "aws:ec2:send-spot-instance-interruptions"): (
        Required("ec2:DescribeInstances"),
        Required("ec2:SendSpotInstanceInterruptions", (f"{_EC2}:instance/{{instance}}",)),
    ),
    # list_awsfaultinjectionservice.html; security_iam_id-based-policy-examples.html: the role
    ("fis", "CreateExperimentTemplate"): (
        Required(
            "fis:CreateExperimentTemplate",
            (f"{_FIS}:action/{{fault}}", f"{_FIS}:experiment-template/*"),
        ),
        Required("iam:PassRole", ("{role}",), {"iam:PassedToService": "fis.amazonaws.com"}),
    ),
    ("fis", "GetExperimentTemplate"): (
        Required("fis:GetExperimentTemplate", (f"{_FIS}:experiment-template/{{template}}",)),
    ),
    ("fis", "DeleteExperimentTemplate"): (
        Required("fis:DeleteExperimentTemplate", (f"{_FIS}:experiment-template/{{template}}",)),
    ),
    ("fis", "StartExperiment"): (
        Required(
            "fis:StartExperiment",
            (f"{_FIS}:experiment-template/{{template}}", f"{_FIS}:experiment/*"),
        ),
    ),
    ("fis", "GetExperiment"): (
        Required("fis:GetExperiment", (f"{_FIS}:experiment/{{experiment}}",)),
    ),
}
