"""Owns the nouns: frozen values that touch disk or travel between rooms.

May import: errors.
Must never know: files, clocks, randomness, ports.
"""
