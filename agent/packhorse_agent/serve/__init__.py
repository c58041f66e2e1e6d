"""The inference worker: one process loads one model and serves it over the Open Inference Protocol v2."""
