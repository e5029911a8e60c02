"""Owns the lock log: plan, apply, move, history.

May import: core, model, ports, store.
Must never know: runs, and which store, source or manifest it is.
"""
