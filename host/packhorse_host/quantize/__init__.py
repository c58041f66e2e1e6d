"""A float model in, a quantized one out: recipes, calibration and one emitter per runtime."""
