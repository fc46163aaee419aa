"""Messages between processes of one host: pickled objects, with open files where needed, over a Unix socket."""

from __future__ import annotations

import contextlib
import pickle
import socket
import struct
from collections.abc import Sequence
from typing import Any

_HEADER = struct.Struct("!Q")
_FD = struct.Struct("i")
_CHUNK = 1 << 16
_MOST_FDS = 16


class Channel:
    """One end of a two-way connection; the other end closing it, or dying, is an ``EOFError`` here."""

    def __init__(self, end: socket.socket) -> None:
        """Take over ``end``, a connected Unix stream socket."""
        self._socket = end
        self._bytes = bytearray()
        self._fds: list[int] = []

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Return two connected channels."""
        left, right = socket.socketpair()
        return cls(left), cls(right)

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        """Return the channel whose socket is the open file ``fd``."""
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        """Return the socket's descriptor, for ``selectors``."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def finish_sending(self) -> None:
        """Let the other end see the end of this one's messages; it can still send."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def send(self, message: Any, fds: Sequence[int] = ()) -> None:
        """Send one picklable object and duplicates of at most 16 open files."""
        assert len(fds) <= _MOST_FDS
        body = pickle.dumps(message)
        try:
            # Descriptors travel with the header: one small write that the kernel does not split.
            socket.send_fds(self._socket, [_HEADER.pack(len(body))], fds)
            self._socket.sendall(body)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise EOFError("the other process is gone") from error

    def receive(self) -> tuple[Any, list[int]]:
        """Wait for one message; return it with the open files that came along."""
        while self._missing():
            self._read(0)
        return self._take()

    def pending(self) -> list[Any]:
        """Return the messages that have arrived, without waiting; raise ``EOFError`` if none is left to come."""
        messages: list[Any] = []
        try:
            while True:
                while self._missing():
                    self._read(socket.MSG_DONTWAIT)
                messages.append(self._take()[0])
        except BlockingIOError:
            return messages
        except EOFError:
            if messages:
                return messages
            raise

    def _missing(self) -> int:
        """Bytes of the current message that have not been read."""
        wanted = _HEADER.size
        if len(self._bytes) >= wanted:
            wanted += _HEADER.unpack_from(self._bytes)[0]
        return wanted - len(self._bytes)

    def _read(self, flags: int) -> None:
        # Never past the end of a message: the descriptors of the next one must not be taken for this one's.
        size = min(self._missing(), _CHUNK)
        try:
            # socket.recv_fds would ignore the flags.
            data, ancillary, _, _ = self._socket.recvmsg(
                size, socket.CMSG_LEN(_MOST_FDS * _FD.size), flags | socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            data, ancillary = b"", []
        for _, _, packed in ancillary:
            self._fds += [fd for (fd,) in _FD.iter_unpack(packed)]
        self._bytes += data
        if not data:
            raise EOFError("the other process is gone")

    def _take(self) -> tuple[Any, list[int]]:
        message = pickle.loads(memoryview(self._bytes)[_HEADER.size :])
        self._bytes = bytearray()
        fds, self._fds = self._fds, []
        return message, fds
