"""`--recipe auto`: candidates tried over a port, a mixed plan by sensitivity, and a policy that picks."""
