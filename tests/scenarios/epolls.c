/* epoll: level, edge, one-shot, and the order of events. */
#include "scenarios.h"
#define THEME "epoll"

SCENARIO(epoll_level, SMC)
{
    PAIR(c, s);
    int ep = epoll_create1(0);
    ADD(ep, s, EPOLLIN, 's');
    EPOLL_WAIT(ep, 4, 0);
    SEND(c, "level", 0);
    EPOLL_WAIT(ep, 4, 5000);
    EPOLL_WAIT(ep, 4, 0);
    RECV(s, 2, 0);
    EPOLL_WAIT(ep, 4, 0);
    RECV(s, 100, 0);
    EPOLL_WAIT(ep, 4, 0);
    CALL(close(c));
    EPOLL_WAIT(ep, 4, 5000);
    EPOLL_WAIT(ep, 4, 0);
    RECV(s, 100, 0);
    EPOLL_WAIT(ep, 4, 0);
    close_both(s, ep);
}

SCENARIO(epoll_edge, SMC)
{
    PAIR(c, s);
    int ep = epoll_create1(0);
    ADD(ep, s, EPOLLIN | EPOLLET, 's');
    EPOLL_WAIT(ep, 4, 0);
    SEND(c, "first", 0);
    EPOLL_WAIT(ep, 4, 5000);
    EPOLL_WAIT(ep, 4, 50);
    /* A new arrival is a new edge, drained or not. */
    SEND(c, "second", 0);
    EPOLL_WAIT(ep, 4, 5000);
    EPOLL_WAIT(ep, 4, 50);
    RECV(s, 3, 0);
    EPOLL_WAIT(ep, 4, 50);
    SEND(c, "third", 0);
    EPOLL_WAIT(ep, 4, 5000);
    RECV(s, 100, MSG_DONTWAIT);
    RECV(s, 100, MSG_DONTWAIT);
    EPOLL_WAIT(ep, 4, 50);
    SEND(c, "fourth", 0);
    EPOLL_WAIT(ep, 4, 5000);
    RECV(s, 100, 0);
    close_both(c, s);
    CALL(close(ep));
}

SCENARIO(epoll_edge_in_and_out, SMC)
{
    PAIR(c, s);
    int ep = epoll_create1(0);
    nonblock(s);
    ADD(ep, s, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, 's');
    EPOLL_WAIT(ep, 4, 0);
    EPOLL_WAIT(ep, 4, 0);
    SEND(c, "data", 0);
    EPOLL_WAIT(ep, 4, 5000);
    EPOLL_WAIT(ep, 4, 50);
    SEND(s, "answer", 0);
    await(c, POLLIN);
    RECV(c, 100, 0);
    EPOLL_WAIT(ep, 4, 50);
    RECV(s, 100, 0);
    EPOLL_WAIT(ep, 4, 50);
    CALL(shutdown(c, SHUT_WR));
    settle();
    EPOLL_WAIT(ep, 4, 5000);
    EPOLL_WAIT(ep, 4, 50);
    CALL(shutdown(s, SHUT_WR));
    settle();
    EPOLL_WAIT(ep, 4, 5000);
    EPOLL_WAIT(ep, 4, 50);
    close_both(c, s);
    CALL(close(ep));
}

/* Takes an event that may or may not be there. */
static void epoll_wait_quietly(int ep)
{
    struct epoll_event ev;
    epoll_wait(ep, &ev, 1, 0);
}

SCENARIO(epoll_edge_out_after_drain, SMC)
{
    PAIR(c, s);
    int ep = epoll_create1(0);
    ADD(ep, c, EPOLLOUT | EPOLLET, 'c');
    EPOLL_WAIT(ep, 4, 0);
    EPOLL_WAIT(ep, 4, 50);
    uint64_t n = fill(c, 0);
    /* Room came and went while it was being filled. */
    epoll_wait_quietly(ep);
    say("intact: %d", drain(s, 0, n));
    EPOLL_WAIT(ep, 4, 5000);
    n = fill(c, 0);
    epoll_wait_quietly(ep);
    say("intact: %d", drain(s, 0, n));
    EPOLL_WAIT(ep, 4, 5000);
    close_both(c, s);
    CALL(close(ep));
}

SCENARIO(epoll_level_out, SMC)
{
    PAIR(c, s);
    int ep = epoll_create1(0);
    ADD(ep, c, EPOLLOUT | EPOLLIN, 'c');
    EPOLL_WAIT(ep, 4, 0);
    EPOLL_WAIT(ep, 4, 0);
    uint64_t n = fill(c, 0);
    EPOLL_WAIT(ep, 4, 0);
    SEND(s, "other way", 0);
    await(c, POLLIN);
    EPOLL_WAIT(ep, 4, 0);
    say("intact: %d", drain(s, 0, n));
    await(c, POLLOUT);
    EPOLL_WAIT(ep, 4, 0);
    close_both(c, s);
    CALL(close(ep));
}

SCENARIO(epoll_oneshot, SMC)
{
    PAIR(c, s);
    int ep = epoll_create1(0);
    ADD(ep, s, EPOLLIN | EPOLLONESHOT, 's');
    SEND(c, "one", 0);
    EPOLL_WAIT(ep, 4, 5000);
    SEND(c, "two", 0);
    await(s, POLLIN);
    EPOLL_WAIT(ep, 4, 50);
    MOD(ep, s, EPOLLIN | EPOLLONESHOT, 's');
    EPOLL_WAIT(ep, 4, 5000);
    EPOLL_WAIT(ep, 4, 50);
    settle();
    RECV(s, 100, 0);
    MOD(ep, s, EPOLLIN | EPOLLONESHOT, 's');
    EPOLL_WAIT(ep, 4, 50);
    CALL(close(c));
    EPOLL_WAIT(ep, 4, 5000);
    EPOLL_WAIT(ep, 4, 50);
    close_both(s, ep);
}

SCENARIO(epoll_oneshot_edge, SMC)
{
    PAIR(c, s);
    int ep = epoll_create1(0);
    ADD(ep, s, EPOLLIN | EPOLLET | EPOLLONESHOT, 's');
    SEND(c, "one", 0);
    EPOLL_WAIT(ep, 4, 5000);
    EPOLL_WAIT(ep, 4, 50);
    MOD(ep, s, EPOLLIN | EPOLLET | EPOLLONESHOT, 's');
    EPOLL_WAIT(ep, 4, 5000);
    RECV(s, 100, 0);
    MOD(ep, s, EPOLLIN | EPOLLET | EPOLLONESHOT, 's');
    EPOLL_WAIT(ep, 4, 50);
    SEND(c, "two", 0);
    EPOLL_WAIT(ep, 4, 5000);
    close_both(c, s);
    CALL(close(ep));
}

SCENARIO(epoll_rdhup, SMC)
{
    PAIR(c, s);
    int ep = epoll_create1(0);
    ADD(ep, s, EPOLLRDHUP, 's');
    ADD(ep, c, 0, 'c');
    SEND(c, "data is not asked for", 0);
    EPOLL_WAIT(ep, 4, 50);
    CALL(shutdown(c, SHUT_WR));
    EPOLL_WAIT(ep, 4, 5000);
    EPOLL_WAIT(ep, 4, 0);
    CALL(close(s));
    /* Unread data: a reset, reported although nothing was asked for. */
    await_reset(c);
    EPOLL_WAIT(ep, 4, 5000);
    close_both(c, ep);
}

SCENARIO(epoll_reset, SMC)
{
    PAIR(c, s);
    int ep = epoll_create1(0);
    ADD(ep, c, EPOLLIN | EPOLLRDHUP | EPOLLET, 'c');
    linger_zero(s);
    CALL(close(s));
    settle();
    EPOLL_WAIT(ep, 4, 5000);
    EPOLL_WAIT(ep, 4, 50);
    RECV(c, 10, 0);
    EPOLL_WAIT(ep, 4, 50);
    MOD(ep, c, EPOLLIN, 'c');
    EPOLL_WAIT(ep, 4, 50);
    close_both(c, ep);
}

SCENARIO(epoll_mod_with_data_pending, SMC)
{
    PAIR(c, s);
    int ep = epoll_create1(0);
    SEND(c, "data", 0);
    await(s, POLLIN);
    ADD(ep, s, EPOLLOUT, 's');
    EPOLL_WAIT(ep, 4, 0);
    MOD(ep, s, EPOLLIN, 's');
    EPOLL_WAIT(ep, 4, 0);
    MOD(ep, s, EPOLLIN | EPOLLOUT | EPOLLET, 'S');
    EPOLL_WAIT(ep, 4, 0);
    EPOLL_WAIT(ep, 4, 50);
    /* MOD of an edge-triggered one reports again. */
    MOD(ep, s, EPOLLIN | EPOLLOUT | EPOLLET, 'T');
    EPOLL_WAIT(ep, 4, 0);
    EPOLL_WAIT(ep, 4, 50);
    MOD(ep, s, 0, 's');
    EPOLL_WAIT(ep, 4, 50);
    MOD(ep, s, EPOLLIN, 's');
    EPOLL_WAIT(ep, 4, 0);
    close_both(c, s);
    CALL(close(ep));
}

SCENARIO(epoll_delete_and_add_again, SMC)
{
    PAIR(c, s);
    int ep = epoll_create1(0);
    ADD(ep, s, EPOLLIN | EPOLLET, 's');
    SEND(c, "data", 0);
    EPOLL_WAIT(ep, 4, 5000);
    DEL(ep, s, 's');
    EPOLL_WAIT(ep, 4, 50);
    SEND(c, "more", 0);
    await(s, POLLIN);
    EPOLL_WAIT(ep, 4, 50);
    ADD(ep, s, EPOLLIN | EPOLLET, 's');
    EPOLL_WAIT(ep, 4, 0);
    EPOLL_WAIT(ep, 4, 50);
    DEL(ep, s, 's');
    settle();
    RECV(s, 100, 0);
    ADD(ep, s, EPOLLIN, 's');
    EPOLL_WAIT(ep, 4, 50);
    close_both(c, s);
    CALL(close(ep));
}

SCENARIO(epoll_wrong_arguments, SMC)
{
    PAIR(c, s);
    int ep = epoll_create1(0);
    ADD(ep, c, EPOLLIN, 'c');
    ADD(ep, c, EPOLLIN, 'c');
    MOD(ep, s, EPOLLIN, 's');
    DEL(ep, s, 's');
    DEL(ep, c, 'c');
    DEL(ep, c, 'c');
    ADD(ep, ep, EPOLLIN, 'e');
    ADD(ep, 99, EPOLLIN, '9');
    ADD(99, c, EPOLLIN, 'c');
    ADD(c, s, EPOLLIN, 's');
    struct epoll_event ev;
    CALL(epoll_ctl(ep, 77, c, &ev));
    CALL(epoll_wait(c, &ev, 1, 0));
    CALL(epoll_wait(99, &ev, 1, 0));
    CALL(epoll_create1(0x1234));
    CALL(epoll_create(0));
    MOD(ep, c, EPOLLIN | EPOLLEXCLUSIVE, 'c');
    ADD(ep, c, EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT, 'c');
    close_both(c, s);
    CALL(close(ep));
}

/* The order of readiness is the order of events. */
SCENARIO(epoll_order, SMC)
{
    int c[4], s[4], ep = epoll_create1(0);
    for (int i = 0; i < 4; i++) {
        tcp_pair_of(AF_INET, &c[i], &s[i]);
        ADD(ep, s[i], EPOLLIN | EPOLLET, (char)('0' + i));
    }
    EPOLL_WAIT(ep, 8, 0);
    static const int order[] = {2, 0, 3, 1};
    for (int i = 0; i < 4; i++) {
        SEND(c[order[i]], "x", 0);
        await(s[order[i]], POLLIN);
    }
    EPOLL_WAIT(ep, 8, 5000);
    EPOLL_WAIT(ep, 8, 0);
    for (int i = 3; i >= 0; i--) {
        SEND(c[i], "x", 0);
        await(s[i], POLLIN);
    }
    settle();
    /* Fewer places than events: the rest comes next. */
    EPOLL_WAIT(ep, 3, 5000);
    EPOLL_WAIT(ep, 3, 5000);
    EPOLL_WAIT(ep, 3, 0);
    for (int i = 0; i < 4; i++)
        close_both(c[i], s[i]);
    CALL(close(ep));
}

SCENARIO(epoll_level_rotates, SMC)
{
    int c[3], s[3], ep = epoll_create1(0);
    for (int i = 0; i < 3; i++) {
        tcp_pair_of(AF_INET, &c[i], &s[i]);
        ADD(ep, s[i], EPOLLIN, (char)('0' + i));
        SEND(c[i], "x", 0);
        await(s[i], POLLIN);
    }
    for (int i = 0; i < 4; i++)
        EPOLL_WAIT(ep, 1, 5000);
    for (int i = 0; i < 3; i++)
        close_both(c[i], s[i]);
    CALL(close(ep));
}

SCENARIO(epoll_add_when_ready, SMC)
{
    PAIR(c, s);
    SEND(c, "already there", 0);
    CALL(shutdown(c, SHUT_WR));
    await(s, POLLRDHUP);
    int ep = epoll_create1(0);
    ADD(ep, s, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, 's');
    EPOLL_WAIT(ep, 4, 0);
    EPOLL_WAIT(ep, 4, 50);
    RECV(s, 100, 0);
    RECV(s, 100, 0);
    EPOLL_WAIT(ep, 4, 50);
    close_both(c, s);
    CALL(close(ep));
}

/* The usual discipline: read until EAGAIN, then wait for the edge. */
SCENARIO(epoll_edge_server, SMC)
{
    int fd;
    pid_t pid = fork_pair(&fd);
    if (pid == 0) {
        for (int i = 0; i < 300; i++) {
            if (!send_all(fd, (uint64_t)i * 5000, 5000, (size_t)(1 + i * 17 % 5000)))
                die("send");
            if (i % 50 == 0)
                nap(3);
        }
        CALL(close(fd));
        return;
    }
    nonblock(fd);
    int ep = epoll_create1(0);
    ADD(ep, fd, EPOLLIN | EPOLLRDHUP | EPOLLET, 'f');
    uint64_t got = 0;
    bool good = true, end = false;
    while (!end) {
        struct epoll_event ev;
        if (epoll_wait(ep, &ev, 1, 8000) != 1)
            die("stalled at %llu", (unsigned long long)got);
        for (;;) {
            char b[3000];
            ssize_t n = read(fd, b, sizeof b);
            if (n < 0 && errno == EAGAIN)
                break;
            if (n <= 0) {
                end = true;
                good &= n == 0;
                break;
            }
            good &= is_pattern(b, got, (size_t)n);
            got += (uint64_t)n;
        }
    }
    say("intact: %d, whole: %d", good, got == 300 * 5000);
    close_both(fd, ep);
    reap(pid);
}
