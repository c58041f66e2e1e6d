"""Inputs for calibration where nobody gave any."""
