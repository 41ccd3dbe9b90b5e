"""HTTP/2 by hand, for clients that do what no library allows. Frames: RFC 9113, sections 4 and 6; HPACK: RFC 7541, 6.2.2."""

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, ACK, END_HEADERS = 1, 1, 4
CANCEL = 8


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def header_block(fields):
    """Literals without indexing: names and values shorter than 127 bytes."""
    return b"".join(b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
                    for name, value in fields)


def grpc_head(method="ModelInfer", timeout=None):
    fields = [(":method", "POST"), (":scheme", "http"), (":path", f"/inference.GRPCInferenceService/{method}"),
              (":authority", "localhost"), ("content-type", "application/grpc"), ("te", "trailers")]
    return header_block(fields + ([("grpc-timeout", timeout)] if timeout else []))


def grpc_message(protobuf):
    return b"\0" + struct.pack(">I", len(protobuf)) + protobuf


def open_connection():
    return PREFACE + frame(SETTINGS, 0, 0)


def acknowledge(received):
    """What must be said to all whole frames in `received` (settings, pings); (answer, rest, frame kinds)."""
    answer, kinds = b"", []
    while len(received) >= 9:
        length = int.from_bytes(received[:3], "big")
        if len(received) < 9 + length:
            break
        kind, flags = received[3], received[4]
        kinds.append(kind)
        if kind == SETTINGS and not flags & ACK:
            answer += frame(SETTINGS, ACK, 0)
        if kind == PING and not flags & ACK:
            answer += frame(PING, ACK, 0, received[9:9 + length])
        received = received[9 + length:]
    return answer, received, kinds
