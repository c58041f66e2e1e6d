"""Bundles: what goes in, the rules that may refuse one, and folders that are whole or not there."""
