from __future__ import annotations

pytest_plugins = ["tests.s3_servers", "tests.repository"]
