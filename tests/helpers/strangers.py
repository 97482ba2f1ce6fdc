"""Somebody else on the same machine."""

import os
import traceback

import pytest

STRANGER = 54321  # a number that no user and no group here has
by_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")


def as_stranger(act):
    """Call a function as somebody else, in a process of its own; tell whether it went well."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(STRANGER)
            os.setuid(STRANGER)
            act()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0
