"""Runtimes behind one protocol, each imported only when a model needs it.

Importing this package tells ONNX Runtime not to send telemetry to its maker, which since 1.32 it does on
Linux too: a device on a metered link must not talk to strangers. ORT_DISABLE_TELEMETRY=0 allows it.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
