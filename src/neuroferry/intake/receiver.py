"""The process of the DICOM node: started, watched, and started again if it ends."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from neuroferry.errors import ExitCode, ResourceError
from neuroferry.intake import node
from neuroferry.intake.node import NodeSettings
from neuroferry.intake.spool import Spool

#: Seconds for which a process may take to listen, and to end.
_PATIENCE = 30.0
#: Pauses between two attempts to start it again, in seconds; after the last one it is given up.
_PAUSES = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
#: Seconds after which a process that listened counts as sound.
_SOUND = 60.0


class Receiver:
    """The node's process, which the service watches.

    Parameters
    ----------
    settings : NodeSettings
        Settings of the node. A free port that it found once is kept when it starts again.
    spool : Spool
        Of the intake.
    say : callable
        Takes what happens, as sentences.

    Raises
    ------
    NeuroferryError
        If the node cannot listen.
    """

    def __init__(self, settings: NodeSettings, spool: Spool, say: Callable[[str], None]) -> None:
        node.tls_context(settings)  # says what is wrong with the files here
        self._settings, self._spool, self._say = settings, spool, say
        self._attempts = 0
        self._not_before = 0.0
        self._process: BaseProcess
        self._connection: Connection
        answer = self._start()
        if not isinstance(answer, int):
            raise ResourceError(
                f"The node cannot listen on port {settings.port} ({answer}). Choose another"
                " --port above 1024."
            )
        self._settings = replace(settings, port=answer)
        say(f"Listening as {settings.title} on port {answer}.")

    @property
    def pid(self) -> int:
        """Number of its process."""
        return self._process.pid or 0

    def check(self) -> None:
        """Say what the node has to say, and start it again if its process has ended.

        Raises
        ------
        NeuroferryError
            If it could not be started again for more than a minute.
        """
        self._hear()
        moment = time.monotonic()
        if self._process.is_alive():
            if moment > self._not_before + _SOUND:
                self._attempts = 0
            return
        if moment < self._not_before:
            return
        if self._attempts == len(_PAUSES):
            raise ResourceError(
                f"The DICOM node on port {self._settings.port} ended and cannot be started again;"
                " what it had acknowledged is kept. Look for a program that takes its port or"
                " its memory, and start the intake again.",
                exit_code=ExitCode.TEMPORARY,
            )
        code = self._process.exitcode
        self._connection.close()
        # nothing else writes there while the service waits here
        self._spool.clear_receiving()
        answer = self._start()
        self._not_before = time.monotonic() + _PAUSES[self._attempts]
        self._attempts += 1
        if isinstance(answer, int):
            self._say(
                f"WARNING: The DICOM node had ended ({code}); it was started again. Senders have"
                " to send again what was not acknowledged."
            )
        else:
            self._say(f"WARNING: The DICOM node cannot be started again ({answer}).")

    def stop(self) -> None:
        """Let the node end, and say what it has said until then."""
        self._hear()
        self._connection.close()
        self._process.join(_PATIENCE)
        if self._process.is_alive():
            self._process.kill()

    def _hear(self) -> None:
        with suppress(EOFError, OSError):
            while self._connection.poll():
                self._say(str(self._connection.recv()))

    def _start(self) -> int | str:
        """Start a process; return the port once it listens, or why it does not."""
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=node.serve, args=(self._settings, self._spool.root, theirs), daemon=True
        )
        self._process.start()
        theirs.close()
        answer: int | str = ""
        with suppress(EOFError, OSError):
            if self._connection.poll(_PATIENCE):
                answer = self._connection.recv()
        if isinstance(answer, int):
            return answer
        if not answer:
            answer = "it does not answer" if self._process.is_alive() else "it ended"
            self._process.kill()
        self._process.join(_PATIENCE)
        return answer
