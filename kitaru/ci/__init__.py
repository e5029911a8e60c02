"""Owns pipelines and forges.

May import: model, errors.
Must never know: the store, releases, runs.
"""
