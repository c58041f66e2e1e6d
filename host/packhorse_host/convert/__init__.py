"""From any source format to a float model of any runtime, by tools that live in environments of their own."""
