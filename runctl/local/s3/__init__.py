"""S3 of the local cloud: the contents of objects are files of the local cloud's folder."""
