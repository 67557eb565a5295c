/* A thread that sleeps in a call on a socket, and what wakes it. */
#include "scenarios.h"
#define THEME "wake"

static void in_recv(struct task *t)
{
    RECV(t->fd, 100, 0);
    RECV(t->fd, 100, MSG_DONTWAIT);
}

static void in_poll(struct task *t)
{
    POLL(t->fd, POLLIN | POLLRDHUP, 8000);
    RECV(t->fd, 100, MSG_DONTWAIT);
}

static void in_epoll(struct task *t)
{
    int ep = epoll_create1(0);
    struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.u64 = 'x'};
    CALL(epoll_ctl(ep, EPOLL_CTL_ADD, t->fd, &ev));
    EPOLL_WAIT(ep, 4, 8000);
    RECV(t->fd, 100, MSG_DONTWAIT);
    CALL(close(ep));
}

static void in_select(struct task *t)
{
    fd_set r;
    FD_ZERO(&r);
    FD_SET(t->fd, &r);
    struct timeval tv = {8, 0};
    CALL(select(t->fd + 1, &r, NULL, NULL, &tv));
    RECV(t->fd, 100, MSG_DONTWAIT);
}

enum cause { DATA, OWN_SHUTDOWN_RD, OWN_SHUTDOWN_RDWR, PEER_CLOSE, PEER_HALF_CLOSE, PEER_RESET };

static void wake(void (*sleeper)(struct task *), enum cause cause)
{
    PAIR(c, s);
    struct task t = {0};
    start(&t, "sleeper", sleeper, c);
    await_blocked(&t);
    bool closed = false;
    switch (cause) {
    case DATA:
        SEND(s, "wake up", 0);
        break;
    case OWN_SHUTDOWN_RD:
        CALL(shutdown(c, SHUT_RD));
        break;
    case OWN_SHUTDOWN_RDWR:
        CALL(shutdown(c, SHUT_RDWR));
        break;
    case PEER_HALF_CLOSE:
        CALL(shutdown(s, SHUT_WR));
        break;
    case PEER_RESET:
        linger_zero(s);
        /* fall through */
    case PEER_CLOSE:
        CALL(close(s));
        closed = true;
    }
    join(&t);
    settle();
    LOOK(c);
    if (!closed) {
        LOOK(s);
        CALL(close(s));
    }
    CALL(close(c));
}

#define WAKE(NAME, SLEEPER, CAUSE)                                                \
    SCENARIO(NAME, SMC)                                                           \
    {                                                                             \
        wake(SLEEPER, CAUSE);                                                     \
    }

WAKE(wake_recv_by_data, in_recv, DATA)
WAKE(wake_recv_by_own_shutdown_rd, in_recv, OWN_SHUTDOWN_RD)
WAKE(wake_recv_by_own_shutdown_rdwr, in_recv, OWN_SHUTDOWN_RDWR)
WAKE(wake_recv_by_peer_close, in_recv, PEER_CLOSE)
WAKE(wake_recv_by_peer_half_close, in_recv, PEER_HALF_CLOSE)
WAKE(wake_recv_by_peer_reset, in_recv, PEER_RESET)
WAKE(wake_poll_by_data, in_poll, DATA)
WAKE(wake_poll_by_own_shutdown_rd, in_poll, OWN_SHUTDOWN_RD)
WAKE(wake_poll_by_peer_close, in_poll, PEER_CLOSE)
WAKE(wake_poll_by_peer_reset, in_poll, PEER_RESET)
WAKE(wake_epoll_by_data, in_epoll, DATA)
WAKE(wake_epoll_by_own_shutdown_rd, in_epoll, OWN_SHUTDOWN_RD)
WAKE(wake_epoll_by_peer_close, in_epoll, PEER_CLOSE)
WAKE(wake_select_by_data, in_select, DATA)
WAKE(wake_select_by_own_shutdown_rdwr, in_select, OWN_SHUTDOWN_RDWR)
WAKE(wake_select_by_peer_close, in_select, PEER_CLOSE)

static void in_accept(struct task *t)
{
    CALL(accept(t->fd, NULL, NULL));
}

SCENARIO(wake_accept_by_shutdown, TCP_ONLY)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    struct task t = {0};
    start(&t, "sleeper", in_accept, l);
    await_blocked(&t);
    CALL(shutdown(l, SHUT_RD));
    join(&t);
    LOOK(l);
    CALL(close(l));
}

static void in_send(struct task *t)
{
    bool sent = send_all(t->fd, (uint64_t)t->value, 1000000, 60000);
    int e = errno;
    say("all sent: %d %s", sent, sent ? "" : errno_name(e));
}

SCENARIO(wake_send_by_reader, SMC)
{
    PAIR(c, s);
    struct task t = {0};
    uint64_t filled = fill(c, 0);
    t.value = (long)filled;
    start(&t, "sender", in_send, c);
    await_blocked(&t);
    say("all received: %d", drain(s, 0, filled + 1000000));
    join(&t);
    close_both(c, s);
}

SCENARIO(wake_send_by_peer_close, SMC)
{
    PAIR(c, s);
    struct task t = {0};
    t.value = (long)fill(c, 0);
    start(&t, "sender", in_send, c);
    await_blocked(&t);
    /* With data unread: a reset. */
    CALL(close(s));
    join(&t);
    LOOK(c);
    RECV(c, 10, 0);
    CALL(close(c));
}

SCENARIO(wake_send_by_own_shutdown, SMC)
{
    PAIR(c, s);
    struct task t = {0};
    t.value = (long)fill(c, 0);
    start(&t, "sender", in_send, c);
    await_blocked(&t);
    CALL(shutdown(c, SHUT_WR));
    join(&t);
    LOOK(c);
    close_both(s, c);
}

static void in_poll_out(struct task *t)
{
    POLL(t->fd, POLLOUT, 8000);
}

SCENARIO(wake_pollout_by_reader, SMC)
{
    PAIR(c, s);
    struct task t = {0};
    uint64_t filled = fill(c, 0);
    start(&t, "sender", in_poll_out, c);
    await_blocked(&t);
    say("all received: %d", drain(s, 0, filled));
    join(&t);
    close_both(c, s);
}

/* close in one thread does not end the other thread's recv: the peer's data
 * still reaches it. */
SCENARIO(close_while_other_thread_reads, SMC)
{
    PAIR(c, s);
    struct task t = {0};
    start(&t, "sleeper", in_recv, c);
    await_blocked(&t);
    CALL(close(c));
    settle();
    SEND(s, "to the sleeper", MSG_NOSIGNAL);
    join(&t);
    CALL(close(s));
}
