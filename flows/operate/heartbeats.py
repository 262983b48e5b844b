"""The end of a flow run does not wait for its heartbeat.

Prefect tells the server of a run's life from a thread that sleeps in whole seconds, and a synchronous flow waits for that
thread at its end: half a second a stage, which was a third of what orchestration cost. An asynchronous flow does not wait
for it, and here neither does a synchronous one: the thread has been told to stop, beats no more, and ends within a second.
"""

from functools import partial

from prefect import flow_engine


def leave_heartbeats_behind() -> None:
    """For every flow that begins in this process from now on."""
    send = flow_engine._send_heartbeats
    if not isinstance(send, partial):
        flow_engine._send_heartbeats = partial(send, join_on_exit=False)
