"""The adapters of AWS; apart from the local cloud, nothing else imports botocore."""
