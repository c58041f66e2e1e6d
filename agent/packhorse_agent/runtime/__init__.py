"""Runtimes behind one protocol, each imported only when a model needs it."""
