"""How server, zygote and children talk: JSON preceded by its length, so that nothing is ever unpickled."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

MAX_FRAME_BYTES = 8 << 20
MAX_MESSAGE_BYTES = 256  # for messages between server and zygote about children
_LENGTH_BYTES = 4


def encode(message: Any) -> bytes:
    """Encode a message as a frame.

    Raises:
        ValueError: the message is too large for a frame.
    """
    content = json.dumps(message).encode()
    if len(content) > MAX_FRAME_BYTES:
        raise ValueError(f"a message of {len(content)} bytes; at most {MAX_FRAME_BYTES}")
    return len(content).to_bytes(_LENGTH_BYTES, "big") + content


def receive(channel: socket.socket) -> Any:
    """The next message.

    Raises:
        EOFError: the other side is gone.
    """
    return json.loads(_exactly(channel, _length(_exactly(channel, _LENGTH_BYTES))))


async def read(reader: asyncio.StreamReader) -> Any:
    """The next message.

    Raises:
        EOFError: the other side is gone (`asyncio.IncompleteReadError` is one).
    """
    return json.loads(await reader.readexactly(_length(await reader.readexactly(_LENGTH_BYTES))))


def _length(prefix: bytes) -> int:
    length = int.from_bytes(prefix, "big")
    if length > MAX_FRAME_BYTES:
        raise EOFError(f"a frame of {length} bytes")
    return length


def _exactly(channel: socket.socket, size: int) -> bytes:
    content = bytearray()
    while len(content) < size:
        piece = channel.recv(size - len(content))
        if not piece:
            raise EOFError("the other side is gone")
        content += piece
    return bytes(content)
