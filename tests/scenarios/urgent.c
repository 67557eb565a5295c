/* Urgent data. */
#include "scenarios.h"
#define THEME "urgent"

static int at_mark(int fd)
{
    int v = -1;
    return ioctl(fd, SIOCATMARK, &v) ? -errno : v;
}

SCENARIO(urgent_byte, SMC)
{
    PAIR(c, s);
    RECV(s, 10, MSG_OOB);
    SEND(c, "before", 0);
    SEND(c, "!", MSG_OOB);
    await(s, POLLPRI);
    SEND(c, "after", 0);
    settle();
    LOOK(s);
    say("at mark: %d", at_mark(s));
    RECV(s, 10, MSG_OOB | MSG_PEEK);
    RECV(s, 10, MSG_OOB);
    RECV(s, 10, MSG_OOB);
    /* A read stops at the mark. */
    RECV(s, 100, 0);
    say("at mark: %d", at_mark(s));
    LOOK(s);
    RECV(s, 100, 0);
    say("at mark: %d", at_mark(s));
    LOOK(s);
    close_both(c, s);
}

SCENARIO(urgent_byte_skipped, SMC)
{
    PAIR(c, s);
    SEND(c, "ab!", MSG_OOB);
    await(s, POLLPRI);
    SEND(c, "cd", 0);
    settle();
    RECV(s, 100, 0);
    RECV(s, 100, 0);
    LOOK(s);
    RECV(s, 10, MSG_OOB);
    close_both(c, s);
}

SCENARIO(urgent_inline, SMC)
{
    PAIR(c, s);
    int on = 1;
    CALL(setsockopt(s, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on));
    SEND(c, "ab", 0);
    SEND(c, "!", MSG_OOB);
    await(s, POLLPRI);
    SEND(c, "cd", 0);
    settle();
    LOOK(s);
    RECV(s, 10, MSG_OOB);
    RECV(s, 100, 0);
    say("at mark: %d", at_mark(s));
    RECV(s, 100, 0);
    say("at mark: %d", at_mark(s));
    close_both(c, s);
}

static volatile sig_atomic_t urgent_signals, io_signals;

static void on_urgent(int sig)
{
    if (sig == SIGURG)
        urgent_signals++;
    else
        io_signals++;
}

SCENARIO(urgent_signal, SMC)
{
    PAIR(c, s);
    struct sigaction sa = {.sa_handler = on_urgent, .sa_flags = SA_RESTART};
    sigaction(SIGURG, &sa, NULL);
    CALL(fcntl(s, F_SETOWN, getpid()));
    say("owner is set: %d", fcntl(s, F_GETOWN) == getpid());
    SEND(c, "!", MSG_OOB);
    await(s, POLLPRI);
    settle();
    say("signals: %d", (int)urgent_signals);
    RECV(s, 10, MSG_OOB);
    close_both(c, s);
}

SCENARIO(urgent_signal_owner_set_before_connect, SMC)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    struct sigaction sa = {.sa_handler = on_urgent, .sa_flags = SA_RESTART};
    sigaction(SIGURG, &sa, NULL);
    int c = socket(AF_INET, SOCK_STREAM, 0);
    CALL(fcntl(c, F_SETOWN, getpid()));
    MUST(connect(c, &a.sa, a.len));
    int s = accept_one(l);
    checkpoint(2);
    SEND(s, "!", MSG_OOB);
    await(c, POLLPRI);
    settle();
    say("signals: %d, owner kept: %d", (int)urgent_signals, fcntl(c, F_GETOWN) == getpid());
    RECV(c, 10, MSG_OOB);
    close_both(c, s);
    CALL(close(l));
}

SCENARIO(io_signal, SMC)
{
    PAIR(c, s);
    struct sigaction sa = {.sa_handler = on_urgent, .sa_flags = SA_RESTART};
    sigaction(SIGIO, &sa, NULL);
    CALL(fcntl(s, F_SETOWN, getpid()));
    CALL(fcntl(s, F_SETFL, O_ASYNC));
    FLAGS_OF(s);
    SEND(c, "data", 0);
    await(s, POLLIN);
    settle();
    say("signalled: %d", io_signals > 0);
    RECV(s, 10, 0);
    io_signals = 0;
    SEND(c, "data", 0);
    await(s, POLLIN);
    settle();
    say("signalled: %d", io_signals > 0);
    io_signals = 0;
    CALL(close(c));
    await(s, POLLRDHUP);
    settle();
    say("signalled: %d", io_signals > 0);
    CALL(close(s));
}
