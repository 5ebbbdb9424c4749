"""Runs: settings, recipes and the folder that a run writes."""
