"""Activation ranges from representative data, batch by batch: memory does not grow with the samples."""
