"""What the device can measure about itself: power, temperature, the workers' use of CPU and memory."""
