"""Owns the commit, the selected files, their archive, and the flows found in them.

May import: model, errors; the describing child also flows.
Must never know: the store, releases, runs.
"""
