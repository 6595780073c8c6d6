"""A CDK app with one of each resource that the local cloud treats in its own way."""

import aws_cdk as cdk
from aws_cdk import aws_ec2, aws_events, aws_events_targets, aws_iam, aws_lambda, aws_ssm

app = cdk.App()
stack = cdk.Stack(app, "Tiny", env=cdk.Environment(account="000000000000", region="us-east-1"))
role = aws_iam.Role(stack, "Role", assumed_by=aws_iam.ServicePrincipal("ec2.amazonaws.com"))
template = aws_ec2.CfnLaunchTemplate(
    stack,
    "Template",
    launch_template_data=aws_ec2.CfnLaunchTemplate.LaunchTemplateDataProperty(
        image_id="resolve:ssm:/aws/service/canonical/ubuntu/24.04/ami-id",
        user_data=cdk.Fn.base64(
            cdk.Fn.sub("#!/bin/sh\necho ${AWS::Region} > $RUNCTL_ROOT/region\n")
        ),
        iam_instance_profile=aws_ec2.CfnLaunchTemplate.IamInstanceProfileProperty(
            arn=aws_iam.InstanceProfile(stack, "Profile", role=role).instance_profile_arn
        ),
        instance_initiated_shutdown_behavior="terminate",
    ),
)
document = aws_ssm.CfnDocument(
    stack,
    "Say",
    document_type="Command",
    content={
        "schemaVersion": "2.2",
        "mainSteps": [
            {
                "action": "aws:runShellScript",
                "name": "say",
                "inputs": {"runCommand": ["echo hello"]},
            }
        ],
    },
)
function = aws_lambda.Function(
    stack,
    "Function",
    runtime=aws_lambda.Runtime.PYTHON_3_12,
    handler="index.handler",
    code=aws_lambda.Code.from_inline("def handler(event, context):\n    return event\n"),
)
aws_events.Rule(
    stack,
    "Rule",
    event_pattern=aws_events.EventPattern(source=["aws.ec2"]),
    targets=[aws_events_targets.LambdaFunction(function)],
)
cdk.CfnOutput(stack, "TemplateId", value=template.ref)
cdk.CfnOutput(stack, "DocumentName", value=document.ref)
cdk.CfnOutput(stack, "FunctionName", value=function.function_name)
app.synth()
