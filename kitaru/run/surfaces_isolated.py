"""The child process of an isolated checkpoint: ``python -m kitaru.run.surfaces_isolated FD``, its order on that socket.

A run starts it for one attempt; people do not. The exit code means nothing: what came of the attempt is on the socket.
"""

from __future__ import annotations

import sys

from kitaru.run.isolated_child import serve

if __name__ == "__main__":
    serve(int(sys.argv[1]))
