"""TensorBoard event files without TensorFlow: scalars as TFRecords of Event protobufs."""

import math
import struct
import time
from pathlib import Path

_TABLE = []
for _byte in range(256):
    for _ in range(8):
        _byte = (_byte >> 1) ^ (0x82F63B78 if _byte & 1 else 0)
    _TABLE.append(_byte)


def masked_crc32c(data: bytes) -> int:
    """The checksum that TFRecord wants: CRC-32C, rotated and offset."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, wire: int, payload: bytes) -> bytes:
    return _varint(number << 3 | wire) + (_varint(len(payload)) if wire == 2 else b"") + payload


def _float32(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:  # the perplexity of a model that knows nothing
        return struct.pack("<f", math.copysign(math.inf, value))


def event(step: int, scalars: dict[str, float], wall_time: float) -> bytes:
    """An Event: wall_time = 1, step = 2, summary = 5 {value = 1 {tag = 1, simple_value = 2}}."""
    values = b"".join(_field(1, 2, _field(1, 2, tag.encode()) + _field(2, 5, _float32(value))) for tag, value in scalars.items())
    return _field(1, 1, struct.pack("<d", wall_time)) + _field(2, 0, _varint(step)) + _field(5, 2, values)


class EventWriter:
    """Appends scalars to a new event file in a folder."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._stream = open(folder / f"events.out.tfevents.{time.time_ns()}", "wb", buffering=0)  # noqa: SIM115 - lives with the run
        self._write(_field(1, 1, struct.pack("<d", time.time())) + _field(3, 2, b"brain.Event:2"))

    def write(self, step: int, scalars: dict[str, float]) -> None:
        self._write(event(step, scalars, time.time()))

    def _write(self, data: bytes) -> None:
        length = struct.pack("<Q", len(data))
        self._stream.write(length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data)))

    def close(self) -> None:
        self._stream.close()
