"""The ports of the control functions; `runctl.aws` implements them."""
