"""The AWS infrastructure of runctl: three CDK stacks and the state machine."""
