"""A server whose listening socket goes to other programs.

    listener_server.py [DESCRIPTOR]

Listens on port 7000, or has the socket by inheritance. Each connection brings one word, which says
what to do before the answer. `bare` programs run without the library, `under` ones under it;
`closed` means that they do not inherit the socket.

    exec-bare | exec-under | exec-missing        this process becomes another program
    spawn-bare | spawn-under | spawn-missing | spawn-closed       posix_spawn()
    popen-bare                                   Python's own way: vfork() where it can
    fork-bare                                    fork(), and the child becomes another program
    fork-idle | fork-closed                      fork(), and the child only has the socket
    quit                                         ends, with all children
    anything else                                nothing
"""

import os
import signal
import socket
import subprocess
import sys
import time

BARE = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
SLEEP = ["/usr/bin/sleep", "60"]
MISSING = ["/nonexistent/program"]


class Server:
    """The listening socket, and who else has it."""

    def __init__(self, listener):
        self.listener = listener
        self.stream = None
        self.children = []

    def carry_out(self, word):
        how, _, what = word.partition("-")
        if how not in ("exec", "spawn", "popen", "fork"):
            return
        self.listener.set_inheritable(what != "closed")
        env = os.environ if what == "under" else BARE
        program = MISSING if what == "missing" else SLEEP
        try:
            getattr(self, how)(what, program, env)
        except FileNotFoundError:
            pass

    def exec(self, what, program, env):
        if what != "missing":
            program = [sys.executable, __file__, str(self.listener.fileno())]
        os.execve(program[0], program, env)

    def spawn(self, what, program, env):
        self.children.append(os.posix_spawn(program[0], program, env))

    def popen(self, what, program, env):
        self.children.append(subprocess.Popen(program, env=env, close_fds=False).pid)

    def fork(self, what, program, env):
        # The pipe ends when the child has become another program.
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            if what == "bare":
                os.execve(program[0], program, env)
            self.stream.close()
            os.close(write)
            time.sleep(60)
            os._exit(0)
        os.close(write)
        os.read(read, 1)
        os.close(read)
        self.children.append(child)

    def run(self):
        word = ""
        while word != "quit":
            self.stream, _ = self.listener.accept()
            word = self.stream.recv(64).decode()
            self.carry_out(word)
            self.stream.sendall(b"done")
            self.stream.close()
        for child in self.children:
            os.kill(child, signal.SIGKILL)


signal.alarm(90)
if len(sys.argv) > 1:
    Server(socket.socket(fileno=int(sys.argv[1]))).run()
else:
    Server(socket.create_server(("", 7000))).run()
