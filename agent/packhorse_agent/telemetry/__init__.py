"""What a device reports: windows of telemetry, the spool that survives being offline, the sending."""
