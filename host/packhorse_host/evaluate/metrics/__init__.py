"""How good a model is on data whose truth is known: one module for each kind of model. Pure."""
