"""Owns what users import: flow, checkpoint, wait, log, save, load.

May import: model, errors.
Must never know: how a call is carried out: it asks the scope that is active.
"""
