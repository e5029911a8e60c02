"""Owns the two primitives, objects and logs, and the stores that keep them.

May import: model.address, errors.
Must never know: the meaning of a key or of a byte.
"""
