"""Run a server until standard input ends: `supervise.py SIGNAL USER COMMAND...`

However the tests end, their end of the pipe is closed, and no server is left behind. SIGNAL (a
name like `SIGTERM`) makes the server stop. With a USER other than `-` (only root can do that)
it runs as that user: several servers refuse to be root.
"""

import contextlib
import os
import pwd
import signal
import subprocess
import sys
import threading

#: Seconds a server gets to stop when it is asked to.
PATIENCE = 4.0


def main() -> int:
    signal_name, user, *command = sys.argv[1:]

    def become_user() -> None:
        if user != '-':
            account = pwd.getpwnam(user)
            os.setgroups([])
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)

    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=become_user
    )

    def stop_at_eof() -> None:
        while os.read(0, 1):
            pass
        server.send_signal(signal.Signals[signal_name])
        try:
            server.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            kill_group(server.pid)

    threading.Thread(target=stop_at_eof, daemon=True).start()
    status = server.wait()
    # What a server leaves running when it is told to stop, or crashes, goes too.
    kill_group(server.pid)
    return status & 0xFF


def kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


if __name__ == '__main__':
    # Not sys.exit(): the other thread may still be reading standard input.
    os._exit(main())
