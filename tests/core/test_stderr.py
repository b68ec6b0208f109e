"""What C libraries print is suppressed, in one thread at a time."""

import os
import threading

from qvl_attn.core.runtime import suppress_stderr


def test_two_threads_do_not_leave_it_suppressed(capfd):
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with suppress_stderr():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with suppress_stderr():
        thread.start()
        entered.wait(0.2)  # without a lock it enters now, and saves the null device as the stderr to go back to
        os.write(2, b"from a C library\n")
    leave.set()
    thread.join()
    os.write(2, b"ours\n")
    assert capfd.readouterr().err == "ours\n"
