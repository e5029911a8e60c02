"""How fast, counted and measured: one module for each goal. ``python -m benchmarks`` runs them all."""
