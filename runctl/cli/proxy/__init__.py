"""The local proxy of `runctl aws connect`, which follows a service from instance to instance."""
