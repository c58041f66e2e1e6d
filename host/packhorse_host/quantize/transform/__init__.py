"""Float graphs rewritten so that they quantize better, and quantized ones put right afterwards."""
