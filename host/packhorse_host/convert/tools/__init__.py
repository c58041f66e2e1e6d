"""What runs inside tool environments: one module a tool, with `run(request) -> answer`, JSON both.

These modules import what their environment holds, inside functions only, and nothing else of Packhorse.
"""
