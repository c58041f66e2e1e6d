"""Where samples come from: `.npz` files, images, sound, tokens, Python iterables. Read when asked for."""
