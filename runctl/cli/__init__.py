"""The command line: talks to the local cloud and to AWS through `runctl.aws`, never to boto3."""
