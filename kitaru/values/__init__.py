"""Owns values of users as bytes, and back.

May import: model, errors; ``stored`` also store.
Must never know: executions, flows, and which store it is.
"""
