"""A service manager with one service, whose arguments follow a socket's path.

It passes on SIGUSR1, SIGTERM and SIGHUP; after the first it starts the service
again with the descriptors that it was given to keep. What the service tells it is
printed. With KEEPS=0 it keeps none, as before systemd 254 nobody is told.
"""

import array, os, signal, socket, sys

path, service = sys.argv[1], sys.argv[2:]
kept, child, again = {}, 0, True


def forward(number, _frame):
    global again
    again = number != signal.SIGTERM
    os.kill(child, number)


def start():
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    env = dict(os.environ, NOTIFY_SOCKET=path)
    if env.pop("KEEPS") == "1":
        env["FDSTORE"] = "8"
    if kept:
        env.update(
            LISTEN_PID=str(os.getpid()),
            LISTEN_FDS=str(len(kept)),
            LISTEN_FDNAMES=":".join(kept),
        )
    for at, fd in enumerate([os.dup2(fd, 100 + at) for at, fd in enumerate(kept.values())]):
        os.dup2(fd, 3 + at)
    os.closerange(3 + len(kept), 200)
    os.execvpe(service[0], service, env)


def heard(message, fds):
    lines = dict(line.split("=", 1) for line in message.decode().splitlines())
    name = lines.get("FDNAME")
    if "FDSTORE" in lines and os.environ["KEEPS"] == "1":
        kept[name] = fds[0]
    else:
        for fd in fds:
            os.close(fd)
    if "FDSTOREREMOVE" in lines and name in kept:
        os.close(kept.pop(name))
    print("told", message.decode().replace("\n", " "), flush=True)


listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
listener.bind(path)
listener.settimeout(0.02)
child = start()
signal.signal(signal.SIGUSR1, forward)
signal.signal(signal.SIGTERM, forward)
signal.signal(signal.SIGHUP, forward)
while True:
    try:
        message, ancillary, _, _ = listener.recvmsg(4096, 256)
        fds = array.array("i")
        for _, _, data in ancillary:
            fds.frombytes(data)
        heard(message, list(fds))
    except socket.timeout:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended and not again:
            sys.exit(os.waitstatus_to_exitcode(status))
        if ended:
            print("ended", os.waitstatus_to_exitcode(status), flush=True)
            child = start()
