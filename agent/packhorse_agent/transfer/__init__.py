"""Blobs in chunks, resumable, checked as they arrive, from whatever carries the frames."""

from packhorse_agent.transfer.downloader import Downloader
from packhorse_agent.transfer.spec import BlobSpec, Completed, DownloadCounters, DownloadEvent, Failed

__all__ = ["BlobSpec", "Completed", "DownloadCounters", "DownloadEvent", "Downloader", "Failed"]
