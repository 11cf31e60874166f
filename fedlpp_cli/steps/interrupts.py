"""Ctrl-C between two steps of something long, where it can be kept, and not in the middle of one."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def noted_interrupts(say: Callable[[], None]) -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C in the body sets, after which `say` is called; the second one is as ever.

    Outside of the main thread, which alone gets signals, and where Ctrl-C is ignored or means something else already,
    nothing changes.
    """
    asked = threading.Event()
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield asked
        return

    def note(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        asked.set()
        say()

    signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
