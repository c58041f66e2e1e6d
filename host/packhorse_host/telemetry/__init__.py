"""What devices report: taken in exactly once, merged, and asked for."""
