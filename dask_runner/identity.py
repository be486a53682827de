"""Who we are, for the record."""

import getpass
import os
import socket


def user_name() -> str:
    """The user's name, or the uid if it has none (containers)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def whoami() -> str:
    """user@host:pid."""
    return f"{user_name()}@{socket.gethostname()}:{os.getpid()}"
