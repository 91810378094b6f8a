"""Contestants for tests of the turns. Each writes down when it is built and called."""

import os
import signal
import sys
import time

import numpy as np


def noted(log, name):
    def call():
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{name} {os.getpid()}\n")
        return np.arange(3.0)

    return call


def plain(log, name):
    print("frameworks print such things")
    return noted(log, name)


def fails(log, name):
    raise ValueError("two\nlines")


def ends(log, name, how):
    """Built, it runs once; then its process ends."""
    call = noted(log, name)
    calls = []

    def run():
        calls.append(1)
        if len(calls) > 1:
            if how == "signal":
                os.kill(os.getpid(), signal.SIGSEGV)
            if how == "sleep":
                time.sleep(60)
            print("first line\nlast words\n", file=sys.stderr)
            sys.stderr.flush()
            os._exit(3)
        return call()

    return run


def peers_modules():
    """Which of these are loaded where the builders of other frameworks are."""
    import ppreplk.benchmark.peers  # noqa: F401

    return lambda: np.array([name for name in ("paddle", "torch", "ppreplk.nn") if name in sys.modules] + ["end"])


def large():
    return lambda: np.ones(2**24)
