"""Errors that are meant for people: the command line prints them as one message, without a traceback."""


class UserError(Exception):
    """Something outside the program is wrong.  The message says what, with the value and the file, and what to do.

    The command line exits with `exit_code`: 1 where the work failed (a shard is altered, the disk is full).
    """

    exit_code = 1


class UsageError(UserError, ValueError):
    """The command or the call was wrong: a folder that is not there, a key that does not exist.  Exit code 2."""

    exit_code = 2
