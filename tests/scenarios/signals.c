/* Signals that arrive while a call sleeps. */
#include "scenarios.h"
#define THEME "signals"

static volatile sig_atomic_t handled;

static void on_usr1(int sig)
{
    (void)sig;
    handled++;
}

static void handle_usr1(int flags)
{
    struct sigaction sa = {.sa_handler = on_usr1, .sa_flags = flags};
    MUST(sigaction(SIGUSR1, &sa, NULL));
    handled = 0;
}

enum call {
    IN_RECV,
    IN_READ,
    IN_RECVMSG,
    IN_RECV_WITH_TIMEOUT,
    IN_WAITALL_WITH_PART,
    IN_SEND,
    IN_POLL,
    IN_PPOLL,
    IN_SELECT,
    IN_PSELECT,
    IN_EPOLL_WAIT,
    IN_EPOLL_PWAIT2,
};

static void sleeper(struct task *t)
{
    int fd = t->fd;
    char b[16];
    struct pollfd p = {fd, POLLIN, 0};
    struct timespec ts = {8, 0};
    struct timeval tv = {8, 0};
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = 'x'};
    struct iovec v = {b, sizeof b};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    fd_set r;
    FD_ZERO(&r);
    FD_SET(fd, &r);
    static char big[300000];
    switch ((enum call)t->value) {
    case IN_RECV:
        RECV(fd, 10, 0);
        break;
    case IN_READ:
        CALL(read(fd, b, 10));
        break;
    case IN_RECVMSG:
        CALL(recvmsg(fd, &m, 0));
        break;
    case IN_RECV_WITH_TIMEOUT:
        tv.tv_sec = 8;
        MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
        RECV(fd, 10, 0);
        break;
    case IN_WAITALL_WITH_PART:
        RECV(fd, 10, MSG_WAITALL);
        break;
    case IN_SEND: {
        long n = send(fd, big, sizeof big, 0);
        /* Some may have found room before the signal came. */
        say("send was cut short: %d", (n > 0 && n < (long)sizeof big) || errno == EINTR);
        break;
    }
    case IN_POLL:
        CALL(poll(&p, 1, 8000));
        break;
    case IN_PPOLL:
        CALL(ppoll(&p, 1, &ts, NULL));
        break;
    case IN_SELECT:
        CALL(select(fd + 1, &r, NULL, NULL, &tv));
        break;
    case IN_PSELECT:
        CALL(pselect(fd + 1, &r, NULL, NULL, &ts, NULL));
        break;
    case IN_EPOLL_WAIT:
    case IN_EPOLL_PWAIT2: {
        int ep = epoll_create1(0);
        MUST(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev));
        if (t->value == IN_EPOLL_WAIT)
            CALL(epoll_wait(ep, &ev, 1, 8000));
        else
            CALL(epoll_pwait2(ep, &ev, 1, &ts, NULL));
        close(ep);
    }
    }
    say("handled %d", (int)handled);
}

/* When the handler has run, the result of the interrupted call is settled. */
static void kill_and_await(struct task *t)
{
    pthread_kill(t->thread, SIGUSR1);
    for (int i = 0; i < 1000 && !handled; i++)
        nap(5);
    settle();
}

static void interrupt(enum call call, int flags)
{
    PAIR(c, s);
    handle_usr1(flags);
    struct task t = {.value = call};
    if (call == IN_WAITALL_WITH_PART)
        SEND(s, "part", 0);
    if (call == IN_SEND)
        fill(c, 0);
    start(&t, "sleeper", sleeper, c);
    await_blocked(&t);
    kill_and_await(&t);
    /* Ends the call that the signal did not end. */
    if (call == IN_SEND) {
        join(&t);
        CALL(close(s));
    } else {
        SEND(s, "data", 0);
        join(&t);
        settle();
        RECV(c, 10, MSG_DONTWAIT);
        CALL(close(s));
    }
    CALL(close(c));
}

#define INTERRUPT(NAME, CALL, FLAGS)                                              \
    SCENARIO(NAME, SMC)                                                           \
    {                                                                             \
        interrupt(CALL, FLAGS);                                                   \
    }

INTERRUPT(signal_in_recv, IN_RECV, 0)
INTERRUPT(signal_in_recv_restarted, IN_RECV, SA_RESTART)
INTERRUPT(signal_in_read, IN_READ, 0)
INTERRUPT(signal_in_recvmsg_restarted, IN_RECVMSG, SA_RESTART)
INTERRUPT(signal_in_recv_with_timeout, IN_RECV_WITH_TIMEOUT, SA_RESTART)
INTERRUPT(signal_in_waitall_with_part, IN_WAITALL_WITH_PART, 0)
INTERRUPT(signal_in_waitall_with_part_restarted, IN_WAITALL_WITH_PART, SA_RESTART)
INTERRUPT(signal_in_send, IN_SEND, 0)
INTERRUPT(signal_in_poll, IN_POLL, 0)
INTERRUPT(signal_in_poll_restarted, IN_POLL, SA_RESTART)
INTERRUPT(signal_in_ppoll, IN_PPOLL, SA_RESTART)
INTERRUPT(signal_in_select_restarted, IN_SELECT, SA_RESTART)
INTERRUPT(signal_in_pselect, IN_PSELECT, 0)
INTERRUPT(signal_in_epoll_wait, IN_EPOLL_WAIT, 0)
INTERRUPT(signal_in_epoll_wait_restarted, IN_EPOLL_WAIT, SA_RESTART)
INTERRUPT(signal_in_epoll_pwait2, IN_EPOLL_PWAIT2, SA_RESTART)

static void acceptor(struct task *t)
{
    CALL(accept(t->fd, NULL, NULL));
    say("handled %d", (int)handled);
}

static void interrupt_accept(int flags)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    handle_usr1(flags);
    struct task t = {0};
    start(&t, "sleeper", acceptor, l);
    await_blocked(&t);
    kill_and_await(&t);
    int c = connect_to(&a);
    join(&t);
    close_both(c, l);
}

SCENARIO(signal_in_accept, TCP_ONLY)
{
    interrupt_accept(0);
}

SCENARIO(signal_in_accept_restarted, TCP_ONLY)
{
    interrupt_accept(SA_RESTART);
}

static void connecting(struct task *t)
{
    struct addr a = loopback(AF_INET, (int)t->value);
    CALL(connect(t->fd, &a.sa, a.len));
    say("handled %d", (int)handled);
}

/* A connect that a signal cut off goes on by itself. */
SCENARIO(signal_in_connect, TCP_ONLY)
{
    struct addr a;
    int l = listener(AF_INET, 0, &a);
    int first = connect_to(&a);
    await(l, POLLIN);
    handle_usr1(0);
    int c = socket(AF_INET, SOCK_STREAM, 0);
    struct task t = {.value = port_of(&a)};
    start(&t, "connecting", connecting, c);
    await_blocked(&t);
    pthread_kill(t.thread, SIGUSR1);
    join(&t);
    CALL(close(accept_one(l)));
    POLL(c, POLLOUT, 8000);
    SO_ERROR_OF(c);
    close_both(c, first);
    CALL(close(l));
}

/* A masked signal that is pending when ppoll lifts the mask ends it. */
SCENARIO(signal_mask_of_waiting_calls, SMC)
{
    PAIR(c, s);
    handle_usr1(0);
    sigset_t block, none;
    sigemptyset(&none);
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    MUST(sigprocmask(SIG_BLOCK, &block, NULL));
    struct pollfd p = {c, POLLIN, 0};
    struct timespec ts = {4, 0};
    int ep = epoll_create1(0);
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = 'c'};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, c, &ev));
    fd_set r;
    FD_ZERO(&r);
    FD_SET(c, &r);

    raise(SIGUSR1);
    CALL(poll(&p, 1, 50));
    CALL(ppoll(&p, 1, &ts, &none));
    say("handled %d", (int)handled);
    raise(SIGUSR1);
    CALL(epoll_wait(ep, &ev, 1, 50));
    CALL(epoll_pwait(ep, &ev, 1, 4000, &none));
    say("handled %d", (int)handled);
    raise(SIGUSR1);
    CALL(epoll_pwait2(ep, &ev, 1, &ts, &none));
    say("handled %d", (int)handled);
    raise(SIGUSR1);
    CALL(pselect(c + 1, &r, NULL, NULL, &ts, &none));
    say("handled %d", (int)handled);
    /* With data there, the event wins and the signal stays pending. */
    SEND(s, "data", 0);
    await(c, POLLIN);
    raise(SIGUSR1);
    CALL(ppoll(&p, 1, &ts, &none));
    CALL(epoll_pwait(ep, &ev, 1, 4000, &none));
    sigset_t pending;
    sigpending(&pending);
    say("still pending: %d, handled %d", sigismember(&pending, SIGUSR1), (int)handled);
    CALL(close(ep));
    close_both(c, s);
}

static int io_fd;

static void on_alarm(int sig)
{
    (void)sig;
    int e = errno;
    send(io_fd, "from the handler", 16, MSG_NOSIGNAL);
    errno = e;
}

/* send is allowed in a signal handler, also while the same socket is read. */
SCENARIO(send_in_a_handler, SMC)
{
    PAIR(c, s);
    io_fd = s;
    struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    MUST(sigaction(SIGALRM, &sa, NULL));
    struct itimerval it = {{0, 0}, {0, 100000}};
    MUST(setitimer(ITIMER_REAL, &it, NULL));
    RECV(c, 100, 0);
    io_fd = c;
    MUST(setitimer(ITIMER_REAL, &it, NULL));
    RECV(s, 100, 0);
    close_both(c, s);
}

/* Signals all the time: nothing is lost or doubled. */
SCENARIO(signals_during_a_transfer, SMC)
{
    int fd;
    pid_t pid = fork_pair(&fd);
    handle_usr1(pid ? SA_RESTART : 0);
    struct sigaction sa = {.sa_handler = on_usr1, .sa_flags = pid ? SA_RESTART : 0};
    MUST(sigaction(SIGALRM, &sa, NULL));
    struct itimerval it = {{0, 700}, {0, 700}};
    MUST(setitimer(ITIMER_REAL, &it, NULL));
    if (pid == 0)
        say("sent: %d", send_all(fd, 0, 6000000, 7000));
    else
        say("received: %d", drain(fd, 0, 6000000));
    memset(&it, 0, sizeof it);
    MUST(setitimer(ITIMER_REAL, &it, NULL));
    CALL(close(fd));
    if (pid)
        reap(pid);
}
