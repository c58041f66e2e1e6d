"""Named bounds on everything that comes from outside, each with its unit."""

from __future__ import annotations

from typing import Final

CHUNK_SIZE_BYTES: Final = 64 * 1024
"""Raw size of every chunk but the last; 64 KiB moved most bytes per second on the brokers measured."""

MQTT_PAYLOAD_MAX_BYTES: Final = 128 * 1024
"""No message is larger: the hard limit of AWS IoT Core."""

TRUST_SET_MAX_BYTES: Final = 128 * 1024
"""The trust set with its framing."""

TRUST_SET_MAX_ENTRIES: Final = 64
"""Files in one trust set."""

METADATA_MAX_BYTES: Final = 1024 * 1024
"""One TUF metadata file that is pulled by hash."""

MANIFEST_MAX_BYTES: Final = 64 * 1024
"""A bundle's manifest: one chunk."""

ARTIFACT_MAX_BYTES: Final = 8 * 1024**3
"""One artifact in a bundle."""

ARTIFACTS_MAX: Final = 64
"""Artifacts in one bundle."""

WANT_MAX_RANGES: Final = 512
"""Ranges in one request for chunks."""

WINDOW_MAX_CHUNKS: Final = 64
"""Chunks that one request may ask for: 4 MiB in flight."""

WINDOW_START_CHUNKS: Final = 8
"""The window that a transfer begins with."""

REPORT_MAX_BYTES: Final = 64 * 1024
"""One signed report."""

REPORT_MAX_ITEMS: Final = 256
"""Items in one signed report."""

SKETCH_MAX_BUCKETS: Final = 4096
"""Buckets in one decoded latency sketch: 128 octaves at 32 buckets each."""

BLOB_SHARDS: Final = 16
"""Want topics are partitioned by the first byte of the blob's digest modulo this."""

ASSIGNMENT_SHARDS: Final = 16
"""Tag assignments are spread over this many targets."""
