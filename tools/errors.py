"""Errors that are meant for people: the command line prints them as one message, without a traceback."""

EXIT_BY_SIGNAL = 128
"""Added to a signal's number it is the exit code of a command that the signal stopped and that lost nothing."""


class UserError(Exception):
    """Something outside the program is wrong.  The message says what, with the value and the file, and what to do.

    The command line exits with `exit_code`.  The rule for all commands: 1 where the work failed, on what only the work
    can find (a shard is altered, the disk is full, memory does not suffice, somebody stopped it); 2 (`UsageError`)
    where the command could not be done as it was given, so that another command, or another machine, is the remedy.
    """

    exit_code = 1


class UsageError(UserError, ValueError):
    """The command or the call was wrong: a folder that is not there, a key that does not exist, an option that this
    machine or what is installed on it cannot serve (a GPU that is not there).  Exit code 2.
    """

    exit_code = 2
