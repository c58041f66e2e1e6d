"""Real models that the search for recipes has to stand up to."""
