/* Zero-length calls, partial writes, bulk. */
#include "scenarios.h"
#define THEME "transfer"

SCENARIO(zero_length_calls, SMC)
{
    PAIR(c, s);
    char buf[8] = "";
    CALL(send(c, "", 0, 0));
    CALL(write(c, "", 0));
    CALL(recv(c, buf, 0, MSG_DONTWAIT));
    CALL(read(s, buf, 0));
    settle();
    LOOK(s);
    RECV(s, 8, MSG_DONTWAIT);
    SEND(c, "data", 0);
    await(s, POLLIN);
    CALL(recv(s, buf, 0, 0));
    CALL(read(s, buf, 0));
    LOOK(s);
    RECV(s, 8, 0);
    CALL(close(c));
    await(s, POLLRDHUP);
    CALL(recv(s, buf, 0, 0));
    CALL(read(s, buf, 0));
    RECV(s, 8, 0);
    CALL(send(s, "", 0, 0));
    CALL(close(s));
}

SCENARIO(fill_and_drain, SMC)
{
    PAIR(c, s);
    nonblock(c);
    LOOK(c);
    uint64_t n = fill(c, 0);
    say("more than 16000 bytes fit: %d", n > 16000);
    POLL(c, POLLOUT, 0);
    fd_set w;
    FD_ZERO(&w);
    FD_SET(c, &w);
    struct timeval tv = {0, 0};
    CALL(select(c + 1, NULL, &w, NULL, &tv));
    say("all intact: %d", drain(s, 0, n));
    POLL(c, POLLOUT, 5000);
    RECV(s, 8, MSG_DONTWAIT);
    LOOK(s);
    SEND(c, "goes on", 0);
    await(s, POLLIN);
    RECV(s, 8, 0);
    close_both(c, s);
}

SCENARIO(fill_and_drain_three_times, SMC)
{
    PAIR(c, s);
    uint64_t at = 0;
    for (int i = 0; i < 3; i++) {
        uint64_t n = fill(c, at);
        POLL(c, POLLOUT, 0);
        say("all intact: %d", drain(s, at, n));
        at += n;
        POLL(c, POLLOUT, 5000);
    }
    close_both(c, s);
}

SCENARIO(fill_both_ways, SMC)
{
    PAIR(c, s);
    uint64_t n = fill(c, 0), m = fill(s, 1000);
    POLL(c, POLLIN | POLLOUT | POLLRDHUP, 0);
    POLL(s, POLLIN | POLLOUT | POLLRDHUP, 0);
    say("all intact: %d %d", drain(s, 0, n), drain(c, 1000, m));
    POLL(c, POLLOUT, 5000);
    POLL(s, POLLOUT, 5000);
    close_both(c, s);
}

SCENARIO(fill_then_half_close, SMC)
{
    PAIR(c, s);
    uint64_t n = fill(c, 0);
    CALL(shutdown(c, SHUT_WR));
    settle();
    POLL(s, POLLIN, 1000);
    say("all there and nothing more: %d", drain_to_eof(s, 0) == (int64_t)n);
    LOOK(s);
    close_both(s, c);
}

SCENARIO(fill_then_close, SMC)
{
    PAIR(c, s);
    uint64_t n = fill(c, 0);
    CALL(close(c));
    settle();
    say("all there and nothing more: %d", drain_to_eof(s, 0) == (int64_t)n);
    LOOK(s);
    CALL(close(s));
}

SCENARIO(fill_with_small_buffers, SMC)
{
    PAIR(c, s);
    small_buffers(c, s);
    for (int i = 0; i < 3; i++) {
        uint64_t n = fill(c, 0);
        POLL(c, POLLOUT, 0);
        say("all intact: %d", drain(s, 0, n));
        POLL(c, POLLOUT, 5000);
    }
    close_both(c, s);
}

SCENARIO(large_write_is_partial_when_non_blocking, SMC)
{
    PAIR(c, s);
    nonblock(c);
    size_t size = 64 << 20;
    char *big = malloc(size);
    pattern(big, 0, size);
    ssize_t n = write(c, big, size);
    say("some but not all: %d", n > 0 && (size_t)n < size);
    uint64_t more = fill(c, (uint64_t)n);
    say("all intact: %d", drain(s, 0, (uint64_t)n + more));
    free(big);
    close_both(c, s);
}

static void blocking_writer(struct task *t)
{
    size_t size = 8 << 20;
    char *big = malloc(size);
    pattern(big, 0, size);
    CALL(write(t->fd, big, size));
    free(big);
}

SCENARIO(large_write_is_whole_when_blocking, SMC)
{
    PAIR(c, s);
    struct task t = {0};
    start(&t, "writer", blocking_writer, c);
    settle();
    say("all intact: %d", drain(s, 0, 8 << 20));
    join(&t);
    close_both(c, s);
}

enum { BULK = 12 << 20 };

static void bulk_sender(struct task *t)
{
    say("sent: %d", send_all(t->fd, 77, t->value ? (uint64_t)t->value : BULK, 50000));
    CALL(shutdown(t->fd, SHUT_WR));
}

SCENARIO(large_both_ways_two_processes, SMC)
{
    int fd;
    pid_t pid = fork_pair(&fd);
    struct task t = {0};
    start(&t, pid ? "main sender" : "child sender", bulk_sender, fd);
    say("received whole: %d", drain_to_eof(fd, 77) == BULK);
    join(&t);
    CALL(close(fd));
    if (pid)
        reap(pid);
}

SCENARIO(large_both_ways_small_buffers, SMC)
{
    PAIR(c, s);
    small_buffers(c, s);
    /* TCP is slow when a buffer holds less than one segment. */
    enum { LITTLE = 1000000 };
    struct task t = {.value = LITTLE}, u = {.value = LITTLE};
    start(&t, "client sender", bulk_sender, c);
    start(&u, "server sender", bulk_sender, s);
    struct pollfd p[2] = {{c, POLLIN, 0}, {s, POLLIN, 0}};
    uint64_t got[2] = {0, 0};
    bool good = true;
    while (p[0].fd >= 0 || p[1].fd >= 0) {
        if (poll(p, 2, 8000) <= 0)
            die("stalled at %llu and %llu", (unsigned long long)got[0],
                (unsigned long long)got[1]);
        for (int i = 0; i < 2; i++) {
            if (p[i].fd < 0 || !p[i].revents)
                continue;
            char buf[20000];
            ssize_t n = read(p[i].fd, buf, sizeof buf);
            if (n <= 0) {
                good &= n == 0;
                p[i].fd = -1;
                continue;
            }
            good &= is_pattern(buf, 77 + got[i], (size_t)n);
            got[i] += (uint64_t)n;
        }
    }
    join(&t);
    join(&u);
    say("intact: %d, whole: %d %d", good, got[0] == LITTLE, got[1] == LITTLE);
    close_both(c, s);
}

static void byte_writer(struct task *t)
{
    say("sent: %d", send_all(t->fd, 0, 20000, 1));
}

SCENARIO(one_byte_writes, SMC)
{
    int fd;
    pid_t pid = fork_pair(&fd);
    if (pid == 0) {
        struct task t = {0};
        start(&t, "child writer", byte_writer, fd);
        join(&t);
        CALL(close(fd));
        return;
    }
    say("received whole: %d", drain_to_eof(fd, 0) == 20000);
    CALL(close(fd));
    reap(pid);
}

SCENARIO(one_byte_reads, SMC)
{
    PAIR(c, s);
    say("sent: %d", send_all(c, 0, 5000, 5000));
    bool good = true;
    for (uint64_t i = 0; i < 5000; i++)
        good &= drain(s, i, 1);
    say("intact: %d", good);
    RECV(s, 1, MSG_DONTWAIT);
    close_both(c, s);
}

SCENARIO(ping_pong, SMC)
{
    int fd;
    pid_t pid = fork_pair(&fd);
    bool good = true;
    for (uint64_t i = 0; i < 2000; i++) {
        size_t n = 1 + i % 300;
        if (pid)
            good &= send_all(fd, i, n, n) && drain(fd, i + 1, n);
        else
            good &= drain(fd, i, n) && send_all(fd, i + 1, n, n);
    }
    say("all right: %d", good);
    CALL(close(fd));
    if (pid)
        reap(pid);
}

SCENARIO(ping_pong_ipv6, SMC)
{
    int c, s;
    tcp_pair_of(AF_INET6, &c, &s);
    SEND(c, "over IPv6", 0);
    await(s, POLLIN);
    RECV(s, 100, 0);
    SEND(s, "and back", 0);
    await(c, POLLIN);
    RECV(c, 100, 0);
    CALL(close(c));
    await(s, POLLRDHUP);
    LOOK(s);
    CALL(close(s));
}

SCENARIO(many_connections, SMC)
{
    int c[60], s[60];
    struct addr a;
    int l = listener(AF_INET, 64, &a);
    for (int i = 0; i < 60; i++) {
        c[i] = connect_to(&a);
        s[i] = accept_one(l);
    }
    checkpoint(20);
    bool good = true;
    for (int round = 0; round < 20; round++)
        for (int i = 0; i < 60; i++) {
            good &= send_all(c[i], (uint64_t)i, 100, 100);
            good &= send_all(s[59 - i], 9, 10, 10);
            good &= drain(s[i], (uint64_t)i, 100);
            good &= drain(c[59 - i], 9, 10);
        }
    say("all right: %d", good);
    for (int i = 0; i < 60; i++) {
        close(i % 2 ? c[i] : s[i]);
        good &= drain_to_eof(i % 2 ? s[i] : c[i], 0) == 0;
        close(i % 2 ? s[i] : c[i]);
    }
    say("all closed: %d", good);
    CALL(close(l));
}

SCENARIO(connections_in_turn, SMC)
{
    struct addr a;
    int l = listener(AF_INET, 64, &a);
    bool good = true;
    for (int i = 0; i < 200; i++) {
        int c = connect_to(&a);
        int s = accept_one(l);
        if (i == 0)
            checkpoint(2);
        good &= send_all(c, 3, 50, 50) && drain(s, 3, 50);
        good &= send_all(s, 4, 50, 50) && drain(c, 4, 50);
        close(i % 3 ? c : s);
        good &= drain_to_eof(i % 3 ? s : c, 0) == 0;
        close(i % 3 ? s : c);
    }
    say("all right: %d", good);
    CALL(close(l));
}

enum { LARGE = 8 << 20 };

static void large_sender(struct task *t)
{
    char *buf = malloc(LARGE);
    pattern(buf, 0, LARGE);
    struct iovec iov[2] = {{buf, 100}, {buf + 100, LARGE - 100}};
    switch (t->value) {
    case 0:
        CALL(send(t->fd, buf, LARGE, 0));
        break;
    case 1:
        CALL(write(t->fd, buf, LARGE));
        break;
    default:
        CALL(writev(t->fd, iov, 2));
        break;
    }
    free(buf);
}

/* A call that may wait takes everything, also if it began before the peer accepted. */
static void large_first_call(long way, int wait_ms)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int c = connect_to(&a);
    struct task t = {.value = way};
    start(&t, "sender", large_sender, c);
    usleep(wait_ms * 1000);
    int s = accept_one(l);
    say("all intact: %d", drain(s, 0, LARGE));
    join(&t);
    checkpoint(wait_ms > 250 ? 0 : 2);
    SEND(s, "answer", 0);
    RECV(c, 10, 0);
    close_both(c, s);
    CALL(close(l));
}

SCENARIO(large_first_send, SMC) { large_first_call(0, 100); }
SCENARIO(large_first_write, SMC) { large_first_call(1, 100); }
SCENARIO(large_first_writev, SMC) { large_first_call(2, 100); }
/* So late that the stream stays on TCP. */
SCENARIO(large_first_send_accepted_late, TCP_ONLY) { large_first_call(0, 600); }
SCENARIO(large_first_writev_accepted_late, TCP_ONLY) { large_first_call(2, 600); }
