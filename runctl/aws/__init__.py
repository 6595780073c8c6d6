"""The only code that talks to AWS; every error of AWS becomes one of ours here."""
