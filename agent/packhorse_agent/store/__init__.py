"""Durable writes, state files and blobs: what the agent keeps, and how it survives a kill at any point."""
