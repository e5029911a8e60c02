"""Owns kitaru.yaml: read, checked, edited.

May import: model, errors.
Must never know: the store, Git, and the result of a plan.
"""
