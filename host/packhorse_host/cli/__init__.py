"""The command line `packhorse`; it only translates between a shell and the packages beside it."""
