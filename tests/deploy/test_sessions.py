"""Waiting in turn."""

import asyncio

from diffpolicy.deploy.requests import Request
from diffpolicy.deploy.sessions import OUTBOX, FairQueue, Job, Session


def session(number=1):
    aborted = []
    made = Session(number, lambda: aborted.append(number))
    return made, aborted


def job(of, sequence=0):
    return Job(of, Request({}, sequence), of.episode, 0.0)


def test_a_newer_request_takes_its_predecessor_s_place():
    async def scenario():
        queue = FairQueue()
        (one, _), (other, _) = session(1), session(2)
        first, second, third = job(one, 1), job(other, 1), job(one, 2)
        assert queue.put(first) is None
        assert queue.put(second) is None
        assert queue.put(third) is first
        assert len(queue) == 2
        assert await queue.get() is third
        assert await queue.get() is second

    asyncio.run(scenario())


def test_clients_take_turns_however_often_one_asks():
    async def scenario():
        queue, served = FairQueue(), []
        sessions = [session(number)[0] for number in range(3)]
        for each in sessions:
            queue.put(job(each))
        for _ in range(9):
            done = await queue.get()
            served.append(done.session.number)
            for _ in range(5 if done.session.number == 0 else 1):  # the first asks five times as often
                queue.put(job(done.session))
        assert served == [0, 1, 2] * 3

    asyncio.run(scenario())


def test_get_waits_for_put():
    async def scenario():
        queue = FairQueue()
        getting = asyncio.create_task(queue.get())
        await asyncio.sleep(0.01)
        assert not getting.done()
        waiting = job(session()[0])
        queue.put(waiting)
        assert await getting is waiting

    asyncio.run(scenario())


def test_what_waits_can_be_taken_out():
    queue, told = FairQueue(), []
    (one, _), (other, _) = session(1), session(2)
    first, second = job(one), job(other)
    queue.put(first)
    queue.put(second)
    assert queue.remove(one) is first
    assert queue.remove(one) is None
    queue.drain(told.append)
    assert told == [second]
    assert len(queue) == 0


def test_a_job_is_finished_once():
    waiting = job(session()[0])
    assert waiting.finish()
    assert not waiting.finish()


def test_a_new_episode_forgets():
    of, _ = session()
    of.memory, of.stamp = "plan", 1.0
    of.begin_episode()
    assert (of.memory, of.stamp, of.episode) == (None, None, 1)


def test_answers_that_nobody_reads_are_not_kept_without_end():
    of, aborted = session()
    for _ in range(OUTBOX):
        of.post(b"answer")
    assert aborted == []
    of.post(b"one too many")
    assert aborted == [1]
    assert of.outbox.qsize() == OUTBOX
