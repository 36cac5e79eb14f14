"""Settings of both ends of a link connection, side by side because they only work as a pair."""

from typing import Any

# A chunk is at most 1 MiB; the rest is room for the other fields.
_MESSAGE_BYTES = 2 * 1024 * 1024

_MESSAGE_SIZE = [
    ("grpc.max_send_message_length", _MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
]

# A host that vanishes without closing its connections is noticed after 20 + 10 s; a process that
# dies is noticed at once, by its connection.
CLIENT_OPTIONS: list[tuple[str, Any]] = [
    *_MESSAGE_SIZE,
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A peer that is still starting is found within a second of its start.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # One connection per channel: a job that is held back must not hold back another one.
    ("grpc.use_local_subchannel_pool", 1),
    # Frames are sent again here, where what the peer already has is known.
    ("grpc.enable_retries", 0),
]

SERVER_OPTIONS: list[tuple[str, Any]] = [
    *_MESSAGE_SIZE,
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 2),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Two workers given the same port must not share it silently.
    ("grpc.so_reuseport", 0),
]

# Metadata of every call: the secret that admits a host to the fleet, empty on loopback.
TOKEN_KEY = "join-token"
