"""Messages between a decoder process and its parent: a JSON header, then raw bytes. Never pickle."""

import json
import socket
import struct
from typing import Any

_FRAME = struct.Struct(">IQ")
_MAX_HEADER = 1 << 22
_MAX_PAYLOAD = 1 << 32


class WireError(Exception):
    """The other side sent something that is no message."""


def send(channel: socket.socket, header: dict[str, Any], *payload: bytes | memoryview) -> None:
    """Send one message; the payload parts travel one after the other."""
    text = json.dumps(header).encode()
    size = sum(memoryview(part).nbytes for part in payload)
    channel.sendall(_FRAME.pack(len(text), size) + text)
    for part in payload:
        channel.sendall(part)


def receive_header(channel: socket.socket) -> tuple[dict[str, Any], int]:
    """Read a header and the size of the payload that follows; EOFError when the other side is gone."""
    header_size, size = _FRAME.unpack(receive(channel, _FRAME.size))
    if header_size > _MAX_HEADER or size > _MAX_PAYLOAD:
        raise WireError
    try:
        header = json.loads(receive(channel, header_size))
    except ValueError:
        raise WireError from None
    if not isinstance(header, dict):
        raise WireError
    return header, size


def receive(channel: socket.socket, size: int) -> bytearray:
    """Read exactly ``size`` bytes."""
    data = bytearray(size)
    receive_into(channel, memoryview(data))
    return data


def receive_into(channel: socket.socket, view: memoryview) -> None:
    """Fill ``view`` (bytes); EOFError when the other side is gone, TimeoutError when it is silent."""
    while view.nbytes:
        count = channel.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
