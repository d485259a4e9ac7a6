"""The first stop signal counts; the earlier handlers are restored afterwards."""

import signal
import threading

import pytest

from pcam_lightning.errors import Preempted
from pcam_lightning.runs.stop_signals import SIGNALS, StopSignals


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_raises_at_once_and_later_where_it_is_deferred(number: int) -> None:
    signals, before = StopSignals(), [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(Preempted) as stopped, signals.listening():
        signal.raise_signal(number)
    assert (stopped.value.number, stopped.value.exit_code) == (number, 128 + number)
    with signals.deferred():
        assert signals.first is None
        signal.raise_signal(number)
        for other in set(SIGNALS) - {number}:
            signal.raise_signal(other)
        assert signals.first == number
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_code_that_handles_every_exception_does_not_hide_it() -> None:
    with pytest.raises(Preempted), StopSignals().listening():
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception:
            pytest.fail("handled")


def test_a_second_interrupt_kills() -> None:
    with StopSignals().deferred():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_under_nohup_a_hangup_is_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        signals = StopSignals()
        with signals.deferred():
            signal.raise_signal(signal.SIGHUP)
            signals.install()
            signal.raise_signal(signal.SIGHUP)
            assert signals.first is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_threads_block_changes_nothing() -> None:
    before, inside = [signal.getsignal(each) for each in SIGNALS], []

    def listen() -> None:
        with StopSignals().deferred():
            inside.extend(signal.getsignal(each) for each in SIGNALS)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert inside == before
