"""Weights of a recipe's sources for a target: found (``run``), as a flow (``flow``), started (``start``)."""
