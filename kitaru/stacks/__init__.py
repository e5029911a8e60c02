"""Owns the stacks that run executions, each behind ``Runner``.

May import: model, errors.
Must never know: journals, leases and routes: a stack decides nothing about an execution.
"""
