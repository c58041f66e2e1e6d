"""Deployments on the device: a pure state machine, and what runs its effects on worker processes."""
