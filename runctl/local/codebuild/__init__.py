"""CodeBuild of the local cloud: it executes buildspecs, as processes of this machine."""
