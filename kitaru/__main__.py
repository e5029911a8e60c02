"""``kitaru`` and ``python -m kitaru``: the version at once, everything else through the command line."""

from __future__ import annotations

import gc
import os
import sys

RUN_USER_CODE = ("run", "executions")
"""Commands that may run a flow in this process, which then ends as any Python does."""

INTERRUPTED = 130
AT_START = "interrupted; nothing has changed"


def main() -> None:
    """Run the command that was typed, and exit with its code."""
    try:
        _prepare_streams()
        if sys.argv[1:] in (["--version"], ["version"]):
            from kitaru._version import __version__  # Nothing else is needed to say it.

            _leave(0, f"kitaru {__version__}\n")
        brief = bool(sys.argv[1:2]) and sys.argv[1] not in RUN_USER_CODE
        if brief:
            # Modules are made once and kept: looking for garbage among them finds none, time after time.
            gc.set_threshold(100_000)
        import signal

        heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if heard:
            # An exception in the middle of an import may be swallowed there, or be printed as a traceback.
            signal.signal(signal.SIGINT, lambda *_: _stop(AT_START))
        from kitaru.cli import run

        if heard:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    except KeyboardInterrupt:
        _stop(AT_START)
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        # A second one, while the first was being told.
        _stop("interrupted")
    if brief or code == INTERRUPTED:
        # Whoever is told that it stopped must find it stopped, also where a flow runs in a thread of this process.
        _leave(code)
    sys.exit(code)


def _prepare_streams() -> None:
    """Let every letter be printed, whatever the locale, and take a stream that the caller closed as a hole."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            # The number itself must be taken too, or the next file that is opened becomes this stream.
            hole = os.open(os.devnull, os.O_RDWR)
            if hole != number:
                os.dup2(hole, number)
                os.close(hole)
            os.set_inheritable(number, True)
            stream = open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
        if number:
            stream.reconfigure(errors="backslashreplace")


def _stop(text: str) -> None:
    os.write(2, f"\n{text}\n".encode())
    os._exit(INTERRUPTED)


def _leave(code: int, last: str = "") -> None:
    """End now: all is written, and taking every module apart would be a sixth of a short command's time."""
    try:
        sys.stdout.write(last)
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        code = 1  # Whoever read has gone.
    except OSError as error:
        os.write(2, f"error: can't write to standard output: {error.strerror}\n".encode())
        code = 1
    os._exit(code)


if __name__ == "__main__":
    main()
