"""The checks of `runctl verify`: whether a deployment can do its work in this account."""
