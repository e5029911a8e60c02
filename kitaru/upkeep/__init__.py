"""Owns gc and verify, which read both logs.

May import: release, run, model, ports, store.
Must never know: which store it is.
"""
