"""Errors that are meant for people: the command line prints them as one message, without a traceback."""

import signal

EXIT_BY_SIGNAL = 128


class UserError(Exception):
    """Something outside the program is wrong.  The message says what, with the value and the file, and what to do.

    The command line exits with `exit_code`.  The rule for all commands: 1 where the work failed, on what only the work
    can find (a shard is altered, the disk is full, memory does not suffice); 2 (`UsageError`) where the command could
    not be done as it was given, so that another command, or another machine, is the remedy; 128 + a signal's number
    (`StoppedError`) where a signal stopped it and nothing was lost.
    """

    exit_code = 1


class UsageError(UserError, ValueError):
    """The command or the call was wrong: a folder that is not there, a key that does not exist, an option that this
    machine or what is installed on it cannot serve (a GPU that is not there).  Exit code 2.
    """

    exit_code = 2


class StoppedError(UserError):
    """A signal asked for the end, and nothing was lost; the message says how to resume, where there is something to.

    `exit_code` is 128 + the signal's number, as of a process that the signal ended: 130 for Ctrl-C, 143 for SIGTERM.  A
    job script can tell such an end from a failure (1) and queue the command again.
    """

    def __init__(self, message: str, signal_number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.exit_code = EXIT_BY_SIGNAL + signal_number
