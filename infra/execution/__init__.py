"""Running the units of a step, on this machine or elsewhere."""
