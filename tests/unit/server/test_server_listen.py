"""Connections that come to nothing, or whose answers nobody reads, are ended."""

from __future__ import annotations

import asyncio

import uvicorn
from uvicorn.server import ServerState

from certplane.server import listen


class Timer:
    def __init__(self, loop, moment, call):
        self.moment = moment
        self.call = call
        self._loop = loop

    def cancel(self):
        if self in self._loop.timers:
            self._loop.timers.remove(self)


class Loop:
    """As much of an event loop as the protocol uses: timers that fire when the test says so."""

    def __init__(self):
        self.now = 0.0
        self.timers = []

    def call_later(self, seconds, call, *arguments):
        timer = Timer(self, self.now + seconds, lambda: call(*arguments))
        self.timers.append(timer)
        return timer

    def call_soon(self, call):
        call()

    def time(self):
        return self.now

    def create_task(self, coroutine):
        coroutine.close()
        return asyncio.Future(loop=self)

    def get_debug(self):
        return False

    def advance(self, seconds):
        self.now += seconds
        for timer in [each for each in self.timers if each.moment <= self.now]:
            timer.cancel()
            timer.call()


class Transport:
    def __init__(self):
        self.waiting = 0
        self.aborted = False
        self.written = b""

    def get_extra_info(self, name):
        return None

    def get_write_buffer_size(self):
        return self.waiting

    def write(self, data):
        self.written += data

    def abort(self):
        self.aborted = True

    def close(self):
        self.aborted = True

    def is_closing(self):
        return self.aborted


def _connection():
    config = uvicorn.Config(lambda scope, receive, send: None, log_config=None)
    config.load()
    loop, transport = Loop(), Transport()
    made = listen._Protocol(config=config, server_state=ServerState(), app_state={}, _loop=loop)
    made.connection_made(transport)
    return made, loop, transport


def test_a_connection_on_which_nothing_comes_is_ended():
    """After the time for a head, not before; half a head does not count."""
    made, loop, transport = _connection()
    made.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n")
    loop.advance(31)
    assert not transport.aborted
    loop.advance(2)
    assert transport.aborted


def _exchange(made):
    """One request, answered."""
    made.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    made.cycle.response_complete = True
    made.on_response_complete()


def test_a_connection_between_requests_is_kept_for_a_while():
    """For three minutes from the last answer on; a request that takes longer than that ends nothing."""
    made, loop, transport = _connection()
    _exchange(made)
    loop.advance(100)
    _exchange(made)
    loop.advance(100)
    assert not transport.aborted
    made.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    for _ in range(5):
        loop.advance(180)
    assert not transport.aborted
    made.cycle.response_complete = True
    made.on_response_complete()
    loop.advance(179)
    assert not transport.aborted
    loop.advance(181)
    assert transport.aborted


def test_an_answer_that_nobody_reads_is_given_up():
    """As long as something is read it may take its time; without any progress it is over."""
    made, loop, transport = _connection()
    transport.waiting = 1000
    made.pause_writing()
    loop.advance(30)
    assert transport.aborted
    made, loop, transport = _connection()
    loop.timers.clear()
    transport.waiting = 1000
    made.pause_writing()
    for left in (900, 500, 400):
        transport.waiting = left
        loop.advance(30)
    assert not transport.aborted
    made.resume_writing()
    loop.advance(300)
    assert not transport.aborted
