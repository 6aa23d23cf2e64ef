"""The thread that decides."""

import asyncio
import threading

import pytest

from diffpolicy.deploy.worker import Worker


def test_it_runs_elsewhere_in_order_and_says_when_it_is_busy():
    async def scenario():
        worker, gate, seen = Worker("policy"), threading.Event(), []

        def wait():
            gate.wait(5)
            seen.append(threading.current_thread().name)
            return 1

        first = asyncio.create_task(worker.run(wait))
        second = asyncio.create_task(worker.run(lambda: seen.append("second")))
        while worker.busy_since is None:
            await asyncio.sleep(0.001)
        assert seen == []  # and the event loop went on
        gate.set()
        assert await first == 1
        await second
        assert seen == ["policy", "second"]
        worker.close()

    asyncio.run(scenario())


def test_exceptions_come_through_and_the_thread_goes_on():
    async def scenario():
        worker = Worker("policy")
        with pytest.raises(ZeroDivisionError):
            await worker.run(lambda: 1 // 0)
        assert await worker.run(int, "7") == 7
        worker.close()

    asyncio.run(scenario())


def test_an_event_loop_that_ends_first_is_no_failure():
    gate, worker, done = threading.Event(), Worker("policy"), threading.Event()

    def wait():
        gate.wait(5)

    async def scenario():
        task = asyncio.create_task(worker.run(wait))
        await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(scenario())
    gate.set()
    worker._tasks.put(done.set)  # comes after: the thread is alive
    assert done.wait(5)
    worker.close()
