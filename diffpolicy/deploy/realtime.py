"""Keeping deadlines on an ordinary computer: garbage collection out of the way, SCHED_FIFO where it is allowed."""

import gc
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the garbage collector from looking again and again at what is there already."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def realtime(priority: int) -> Iterator[None]:
    """Run this thread, and those that it starts meanwhile, under SCHED_FIFO with `priority`; 0 changes nothing.

    Enter it before a client is made: its thread holds the interpreter's lock now and then, and must not be kept from
    giving it back. Where the system does not allow it, that is logged, and everything goes on as it is.
    """
    before = None
    if priority > 0:
        try:
            before = os.sched_getscheduler(0), os.sched_getparam(0)
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
        except (OSError, AttributeError) as error:
            before = None
            log.warning("no SCHED_FIFO (%s): the loop shares its core with everything else", error)
    try:
        yield
    finally:
        if before is not None:
            os.sched_setscheduler(0, *before)
