"""Ablations: which corpus makes the better model, with intervals, an A/A arm and a known-bad control."""
