"""The supervisor's parts, put together: identity, slots, messages, telemetry, status."""
