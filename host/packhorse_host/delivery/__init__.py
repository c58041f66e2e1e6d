"""Answers requests for chunks: fair between devices, within a rate."""

from packhorse_host.delivery.server import ChunkServer, ServerCounters
from packhorse_host.delivery.source import BlobSource

__all__ = ["BlobSource", "ChunkServer", "ServerCounters"]
