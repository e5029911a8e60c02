"""Owns the decisions: values in, values out.

May import: model, errors.
Must never know: files, clocks, randomness, ports, terminals.
"""
