"""A whole fleet on one machine, driven through the two command lines as a person would."""
