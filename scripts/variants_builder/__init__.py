"""Hard variants of a model: the same function, written so that plain quantization breaks it."""
