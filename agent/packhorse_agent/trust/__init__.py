"""Bytes in, trusted objects out: TUF metadata, bundle folders, device keys, and the time.

What verification stands on is python-tuf's client; `keeper` feeds it from memory, keeps what it accepted, and
translates its errors. The supervisor has it run in a process of its own (`verifier`): it imports `ports`,
`errors`, `keys` and `clock`, none of which knows python-tuf.
"""
