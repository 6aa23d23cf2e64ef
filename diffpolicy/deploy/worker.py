"""One thread that decides, so that the event loop never waits for a network."""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Worker:
    """Runs functions one after another in a thread of its own.

    Unlike an executor's, the thread ends with the process even if a function in it never does: a server that is told to
    stop then stops. `busy_since` is the monotonic time [s] at which the running function began, None between two.
    """

    def __init__(self, name: str) -> None:
        self.busy_since: float | None = None
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return `function(*arguments)`, called in the thread; its exceptions come through."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if future.done():  # nobody waits any more
                return
            if error is None:
                future.set_result(result)  # type: ignore[arg-type]
            else:
                future.set_exception(error)

        def task() -> None:
            result, failure = None, None
            try:
                result = function(*arguments)
            except BaseException as error:
                failure = error
            with contextlib.suppress(RuntimeError):  # the event loop ended before the function did
                loop.call_soon_threadsafe(settle, result, failure)

        self._tasks.put(task)
        return await future

    def close(self) -> None:
        """Let the thread end after what it is doing."""
        self._tasks.put(None)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            self.busy_since = time.monotonic()
            task()
            self.busy_since = None
