"""The two kinds of error a user meets, each one sentence."""

from __future__ import annotations


class LonglagError(Exception):
    """Something outside the user's hands went wrong; exit code 1."""

    exit_code = 1


class UserError(LonglagError):
    """What the user asked for cannot be done as asked; exit code 2."""

    exit_code = 2
