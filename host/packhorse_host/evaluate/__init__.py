"""The float model against the quantized one: data, scores, golden vectors, latency."""
