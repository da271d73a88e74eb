"""A question to the kernel, over a socket that stays open: of many clusters each look asks some (netlink(7))."""

from __future__ import annotations

import socket
import threading

LIMIT = 1.0
LARGEST = 8192


class Kernel:
    """A part of the kernel, by its ``protocol``; one question at a time, whoever asks."""

    def __init__(self, protocol: int) -> None:
        self._protocol = protocol
        self._asking = threading.Lock()
        self._socket: socket.socket | None = None

    def ask(self, request: bytes) -> bytes:
        """Return the message that answers a request. Raises OSError; what comes after that is never taken for another
        answer.
        """
        with self._asking:
            try:
                if self._socket is None:
                    self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, self._protocol)
                    self._socket.settimeout(LIMIT)
                self._socket.send(request)
                return self._socket.recv(LARGEST)
            except BaseException:
                if self._socket:
                    self._socket.close()
                    self._socket = None
                raise
