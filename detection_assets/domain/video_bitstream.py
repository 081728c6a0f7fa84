"""What a packet of coded video says about itself, read from its headers without decoding it.

The fast path of extraction leaves packets out. It may do so only where the coded stream itself promises that the
remaining pictures come out unchanged; these readers look for that promise, and for everything that would break it.

H.264: ITU-T H.264 7.3.1 and 7.4.1 (NAL units; `nal_ref_idc` 0 is never referenced), 7.3.2.1.1 (sequence parameter set).
HEVC: ITU-T H.265 7.3.1.2 and table 7-1 (a sub-layer non-reference picture may still serve higher temporal layers).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

REFERENCE = -1
"""Value of `PacketFacts.disposable_layer` for a picture that others may be predicted from."""

_FILM_GRAIN_SEI = 19
_H264_HIGH_PROFILES = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244}


@dataclass(frozen=True, slots=True)
class PacketFacts:
    """What one packet promises.

    Attributes:
        disposable_layer: `REFERENCE`, or the temporal layer of a picture that no other picture of its own layer or of
            a lower one is predicted from.
        restart: The picture is an IDR: nothing after it refers to anything before it.
        sets: The packet carries at least one parameter set.
        all_sets: The packet carries every kind of parameter set that its pictures need.
        new_sets: The packet carries a parameter set that was not seen before.
        temporal_layer: Temporal layer of the picture (always 0 for H.264).
        doubt: Why this packet rules skipping out for the whole stream; empty if it does not.
    """

    disposable_layer: int = REFERENCE
    restart: bool = False
    sets: bool = False
    all_sets: bool = False
    new_sets: bool = False
    temporal_layer: int = 0
    doubt: str = ""


class PacketReader(Protocol):
    """Reads the promises of a stream's packets, one packet at a time."""

    def facts(self, data: bytes) -> PacketFacts:
        """Reads one packet."""
        ...


def reader_for(codec: str, extradata: bytes) -> PacketReader | str:
    """Picks the reader for a codec.

    Args:
        codec: FFmpeg's codec name, such as `h264`.
        extradata: The stream's out-of-band headers (`avcC`, `hvcC` or Annex B).

    Returns:
        A reader, or in words why packets of this stream cannot be left out safely.
    """
    if codec in ("h264", "hevc"):
        try:
            length_size, units = _headers(codec, extradata)
            return H264Reader(length_size, units) if codec == "h264" else HevcReader(length_size, units)
        except (ValueError, IndexError) as error:
            return f"its headers do not allow it ({error})"
    if codec in {"prores", "dnxhd", "v210", "rawvideo", "png"}:
        return IntraReader()
    if codec == "mjpeg":
        return MotionJpegReader()
    return f"no proof is known for {codec}"


def nal_units(data: bytes, length_size: int) -> Iterator[bytes]:
    """Splits a packet into NAL units.

    Args:
        data: The packet.
        length_size: Bytes of the length before each unit; 0 for start codes (Annex B).

    Yields:
        Units without length or start code.

    Raises:
        ValueError: A length points past the end of the packet.
    """
    if not length_size:
        start = data.find(b"\0\0\1")
        while start >= 0:
            after = data.find(b"\0\0\1", start + 3)
            unit = data[start + 3 : after if after >= 0 else len(data)]
            if unit:
                yield unit
            start = after
        return
    at = 0
    while at + length_size < len(data):
        size = int.from_bytes(data[at : at + length_size], "big")
        at += length_size
        if at + size > len(data):
            raise ValueError("a NAL unit is longer than its packet")
        if size:
            yield data[at : at + size]
        at += size


def _headers(codec: str, extradata: bytes) -> tuple[int, list[bytes]]:
    """Splits out-of-band headers: bytes of each packet's NAL lengths (0 for start codes), and the parameter sets."""
    if not extradata or extradata[0] != 1:
        return 0, list(nal_units(extradata, 0))
    units: list[bytes] = []
    if codec == "h264":
        length_size, at = (extradata[4] & 3) + 1, 6
        at = _read_units(extradata, at, extradata[5] & 31, units)
        _read_units(extradata, at + 1, extradata[at], units)
    else:
        length_size, at = (extradata[21] & 3) + 1, 23
        for _ in range(extradata[22]):
            at = _read_units(extradata, at + 3, int.from_bytes(extradata[at + 1 : at + 3], "big"), units)
    return length_size, units


def _read_units(data: bytes, at: int, count: int, units: list[bytes]) -> int:
    for _ in range(count):
        size = int.from_bytes(data[at : at + 2], "big")
        if not size or at + 2 + size > len(data):
            raise ValueError("its parameter sets are cut short")
        units.append(data[at + 2 : at + 2 + size])
        at += 2 + size
    return at


def _trimmed(unit: bytes) -> bytes:
    """A parameter set ends with a 1 bit; zeros after it belong to the next start code."""
    return unit.rstrip(b"\0")


class Bits:
    """Reads bits and Exp-Golomb codes of a NAL unit's payload, emulation prevention bytes removed."""

    def __init__(self, payload: bytes):
        clean = payload.replace(b"\0\0\3", b"\0\0")
        self._value = int.from_bytes(clean, "big")
        self._left = len(clean) * 8

    def read(self, count: int) -> int:
        """Reads an unsigned number of `count` bits; raises ValueError past the end."""
        if count > self._left:
            raise ValueError("header ends too early")
        self._left -= count
        return (self._value >> self._left) & ((1 << count) - 1)

    def golomb(self) -> int:
        """Reads an unsigned Exp-Golomb code, ue(v)."""
        zeros = 0
        while not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)

    def signed_golomb(self) -> int:
        """Reads a signed Exp-Golomb code, se(v)."""
        code = self.golomb()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def h264_frames_only(sps: bytes) -> bool:
    """Says whether a sequence parameter set rules field coding out (`frame_mbs_only_flag`).

    Args:
        sps: The NAL unit, with its one-byte header.

    Raises:
        ValueError: The parameter set is cut short.
    """
    bits = Bits(sps[1:])
    profile = bits.read(8)
    bits.read(16)  # constraint flags and level
    bits.golomb()  # id
    if profile in _H264_HIGH_PROFILES:
        chroma = bits.golomb()
        if chroma == 3:
            bits.read(1)
        bits.golomb()  # luma depth
        bits.golomb()  # chroma depth
        bits.read(1)
        if bits.read(1):
            for matrix in range(12 if chroma == 3 else 8):
                if bits.read(1):
                    _skip_scaling_list(bits, 16 if matrix < 6 else 64)
    bits.golomb()  # log2_max_frame_num
    order_type = bits.golomb()
    if order_type == 0:
        bits.golomb()
    elif order_type == 1:
        bits.read(1)
        bits.signed_golomb()
        bits.signed_golomb()
        for _ in range(min(bits.golomb(), 255)):
            bits.signed_golomb()
    bits.golomb()  # reference frames
    bits.read(1)  # gaps allowed
    bits.golomb()  # width
    bits.golomb()  # height
    return bool(bits.read(1))


def _skip_scaling_list(bits: Bits, size: int) -> None:
    last, following = 8, 8
    for _ in range(size):
        if following:
            following = (last + bits.signed_golomb()) % 256
        last = following or last


def _has_film_grain(sei: bytes, header: int) -> bool:
    """Film grain may persist past the packet that carries it, so leaving that packet out would show."""
    at = header
    while at + 2 < len(sei):
        kind = size = 0
        while at < len(sei) and sei[at] == 255:
            kind += 255
            at += 1
        kind += sei[at] if at < len(sei) else 0
        at += 1
        while at < len(sei) and sei[at] == 255:
            size += 255
            at += 1
        size += sei[at] if at < len(sei) else 0
        at += 1 + size
        if kind == _FILM_GRAIN_SEI:
            return True
    return False


class H264Reader:
    """Reads H.264 packets: one progressive picture a packet, or a doubt."""

    _KNOWN = frozenset({1, 5, 6, 7, 8, 9, 12})

    def __init__(self, length_size: int, headers: list[bytes]):
        self._length_size = length_size
        self._sets = {_trimmed(unit) for unit in headers}
        for unit in self._sets:
            if unit[0] & 31 == 7 and not h264_frames_only(unit):
                raise ValueError("it is coded in fields, interlaced")

    def facts(self, data: bytes) -> PacketFacts:
        """Reads one packet."""
        pictures, restart, reference, sps, pps, new, doubt = 0, True, False, False, False, False, ""
        try:
            for unit in nal_units(data, self._length_size):
                kind = unit[0] & 31
                if kind in (1, 5):
                    # A slice that starts at macroblock 0 starts a picture: ue(0) is a single 1 bit.
                    pictures += len(unit) > 1 and unit[1] >= 128
                    restart = restart and kind == 5
                    reference = reference or bool(unit[0] & 0x60)
                elif kind in (7, 8):
                    sps, pps = sps or kind == 7, pps or kind == 8
                    if (unit := _trimmed(unit)) not in self._sets:
                        new = True
                        self._sets.add(unit)
                        if kind == 7 and not h264_frames_only(unit):
                            doubt = "it is coded in fields (interlaced)"
                elif kind == 6 and _has_film_grain(unit, 1):
                    doubt = "it carries film grain"
                elif kind not in self._KNOWN:
                    doubt = f"it has NAL units of type {kind}"
        except ValueError as error:
            return PacketFacts(doubt=f"a packet cannot be read ({error})")
        if pictures != 1:
            doubt = doubt or f"a packet holds {pictures} pictures"
        layer = REFERENCE if reference else 0
        return PacketFacts(layer, restart and pictures == 1, sps or pps, sps and pps, new, 0, doubt)


class HevcReader:
    """Reads HEVC packets: one picture of the base layer a packet, or a doubt."""

    def __init__(self, length_size: int, headers: list[bytes]):
        self._length_size = length_size
        self._sets = {_trimmed(unit) for unit in headers}

    def facts(self, data: bytes) -> PacketFacts:
        """Reads one packet."""
        pictures, temporal, restart, disposable, new, doubt = 0, 0, True, True, False, ""
        kinds: set[int] = set()
        try:
            for unit in nal_units(data, self._length_size):
                if len(unit) < 3:
                    continue
                kind = unit[0] >> 1 & 63
                kinds.add(kind)
                if (unit[0] & 1) << 5 | unit[1] >> 3:
                    doubt = doubt or "it has more than one layer"
                elif kind < 32:
                    pictures += unit[2] >= 128
                    temporal = max((unit[1] & 7) - 1, 0)
                    restart = restart and kind in (19, 20)
                    disposable = disposable and kind < 16 and kind % 2 == 0
                    if 9 < kind < 16 or kind > 21:
                        doubt = doubt or f"it has NAL units of type {kind}"
                elif kind in (32, 33, 34):
                    new = new or _trimmed(unit) not in self._sets
                    self._sets.add(_trimmed(unit))
                elif kind in (36, 37):
                    doubt = doubt or "its sequences end before the file does"
                elif kind in (39, 40) and _has_film_grain(unit, 2):
                    doubt = doubt or "it carries film grain"
        except ValueError as error:
            return PacketFacts(doubt=f"a packet cannot be read ({error})")
        if pictures != 1:
            doubt = doubt or f"a packet holds {pictures} pictures"
        layer = temporal if disposable else REFERENCE
        sets = kinds & {32, 33, 34}
        return PacketFacts(layer, restart and pictures == 1, bool(sets), len(sets) == 3, new, temporal, doubt)


class IntraReader:
    """Packets of codecs in which every picture stands alone."""

    def facts(self, data: bytes) -> PacketFacts:
        """Any packet: a restart."""
        return PacketFacts(restart=True)


class MotionJpegReader:
    """Motion JPEG stands alone if each picture brings its own tables, as abbreviated streams do not."""

    def __init__(self):
        self._huffman: bool | None = None

    def facts(self, data: bytes) -> PacketFacts:
        """Reads one packet: tables before the first scan."""
        head = data[: data.find(b"\xff\xda")] if b"\xff\xda" in data else data
        huffman = b"\xff\xc4" in head
        if self._huffman is None:
            self._huffman = huffman
        if b"\xff\xdb" not in head or huffman != self._huffman:
            return PacketFacts(doubt="a picture relies on tables of another one")
        return PacketFacts(restart=True)
