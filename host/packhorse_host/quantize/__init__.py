"""A float model in, a quantized one out: recipes, calibration and one emitter per runtime."""

import packhorse_agent.runtime  # noqa: F401  (before onnxruntime: see there)
