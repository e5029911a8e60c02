"""Owns the journal of an execution: call, wait, cancel, replay, list.

May import: core, values, flows, model, ports, store.
Must never know: releases, manifests, Git, and which stack it is.
"""
