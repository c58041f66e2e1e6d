"""Inventory, rollouts and the controller: what the owners of a fleet decide and see."""
