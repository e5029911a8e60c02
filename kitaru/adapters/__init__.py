"""Adapters: one outside thing each; none imports the engine or the core."""
