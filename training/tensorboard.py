"""TensorBoard's event files, written without TensorBoard.

A file is a sequence of records: length, its checksum, the data, its checksum; the data is an ``Event`` message with a
step and a few named scalars. That is little enough to spell out, and spares a dependency of some 40 MB.
"""

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path


class EventWriter:
    """One event file. What an earlier, interrupted run said of steps after ``step`` is declared void."""

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self._stream = (folder / name).open("ab")
        self._event(0, _text(3, "brain.Event:2"))
        self.forget(step)

    def forget(self, step: int) -> None:
        """Void what was said of steps after this one: to its readers a session starts there."""
        self._event(step + 1, _bytes(7, _number(1, 1)))

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        values = b"".join(
            _bytes(1, _text(1, name) + b"\x15" + struct.pack("<f", value)) for name, value in scalars.items()
        )
        self._event(step, _bytes(5, values))
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()

    def _event(self, step: int, content: bytes) -> None:
        data = b"\x09" + struct.pack("<d", time.time()) + _number(2, step) + content
        length = struct.pack("<Q", len(data))
        self._stream.write(length + _checksum(length) + data + _checksum(data))


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _crc32c_table()


def _checksum(data: bytes) -> bytes:
    """CRC-32C, rotated and offset as the format asks."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
