"""A fast path for S3: GetObject and PutObject over its own connections, for many or large parts."""
