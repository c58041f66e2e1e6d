"""The wire contract: what both sides must spell and compute alike.

Pure: nothing here does I/O, reads a clock or imports more than pydantic and the standard library.
"""
