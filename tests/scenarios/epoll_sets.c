/* Sockets in several sets, sets in sets, registered early, copied, shared. */
#include "scenarios.h"
#define THEME "epoll_sets"

SCENARIO(epoll_two_sets, SMC)
{
    PAIR(c, s);
    int x = epoll_create1(0), y = epoll_create1(0);
    ADD(x, s, EPOLLIN, 'x');
    ADD(y, s, EPOLLIN | EPOLLOUT | EPOLLET, 'y');
    EPOLL_WAIT(x, 4, 0);
    EPOLL_WAIT(y, 4, 0);
    SEND(c, "seen by both", 0);
    EPOLL_WAIT(x, 4, 5000);
    EPOLL_WAIT(y, 4, 5000);
    EPOLL_WAIT(x, 4, 0);
    EPOLL_WAIT(y, 4, 50);
    DEL(x, s, 'x');
    SEND(c, "again", 0);
    EPOLL_WAIT(y, 4, 5000);
    EPOLL_WAIT(x, 4, 50);
    CALL(close(y));
    settle();
    RECV(s, 100, 0);
    close_both(c, s);
    CALL(close(x));
}

SCENARIO(epoll_nested, SMC)
{
    PAIR(c, s);
    int inner = epoll_create1(0), outer = epoll_create1(0);
    ADD(inner, s, EPOLLIN, 's');
    ADD(outer, inner, EPOLLIN, 'i');
    EPOLL_WAIT(outer, 4, 0);
    POLL(inner, POLLIN | POLLOUT, 0);
    SEND(c, "nested", 0);
    EPOLL_WAIT(outer, 4, 5000);
    POLL(inner, POLLIN | POLLOUT, 0);
    EPOLL_WAIT(inner, 4, 0);
    EPOLL_WAIT(outer, 4, 0);
    RECV(s, 100, 0);
    EPOLL_WAIT(outer, 4, 0);
    POLL(inner, POLLIN, 0);
    CALL(close(c));
    EPOLL_WAIT(outer, 4, 5000);
    close_both(s, inner);
    EPOLL_WAIT(outer, 4, 50);
    CALL(close(outer));
}

SCENARIO(epoll_nested_edge, SMC)
{
    PAIR(c, s);
    int inner = epoll_create1(0), outer = epoll_create1(0);
    ADD(inner, s, EPOLLIN | EPOLLET, 's');
    ADD(outer, inner, EPOLLIN, 'i');
    SEND(c, "one", 0);
    EPOLL_WAIT(outer, 4, 5000);
    EPOLL_WAIT(inner, 4, 0);
    EPOLL_WAIT(outer, 4, 50);
    SEND(c, "two", 0);
    EPOLL_WAIT(outer, 4, 5000);
    EPOLL_WAIT(inner, 4, 0);
    EPOLL_WAIT(inner, 4, 50);
    close_both(c, s);
    close_both(inner, outer);
}

static void early(uint32_t events, bool blocking)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int c = socket(AF_INET, SOCK_STREAM | (blocking ? 0 : SOCK_NONBLOCK), 0);
    int ep = epoll_create1(0);
    ADD(ep, c, events, 'c');
    EPOLL_WAIT(ep, 4, 0);
    CALL(connect(c, &a.sa, a.len));
    settle();
    EPOLL_WAIT(ep, 4, 5000);
    EPOLL_WAIT(ep, 4, 0);
    int s = accept_one(l);
    checkpoint(2);
    settle();
    /* An edge-triggered one may be reported once more when the connection
     * moves: programs must stand spurious edges. */
    if (events & EPOLLET) {
        struct epoll_event ev;
        epoll_wait(ep, &ev, 1, 0);
    }
    EPOLL_WAIT(ep, 4, 0);
    SEND(s, "greeting", 0);
    await(c, POLLIN);
    EPOLL_WAIT(ep, 4, 5000);
    RECV(c, 100, 0);
    EPOLL_WAIT(ep, 4, 0);
    MOD(ep, c, EPOLLIN, 'C');
    CALL(close(s));
    EPOLL_WAIT(ep, 4, 5000);
    DEL(ep, c, 'c');
    EPOLL_WAIT(ep, 4, 0);
    close_both(c, l);
    CALL(close(ep));
}

SCENARIO(epoll_registered_before_connect, SMC)
{
    early(EPOLLIN | EPOLLOUT, false);
}

SCENARIO(epoll_registered_before_blocking_connect, SMC)
{
    early(EPOLLIN | EPOLLOUT | EPOLLRDHUP, true);
}

SCENARIO(epoll_registered_before_connect_edge, SMC)
{
    early(EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, false);
}

SCENARIO(epoll_registered_before_connect_refused, TCP_ONLY)
{
    struct addr a;
    int deaf = bound_socket(AF_INET, &a);
    int c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int ep = epoll_create1(0);
    ADD(ep, c, EPOLLIN | EPOLLOUT | EPOLLET, 'c');
    EPOLL_WAIT(ep, 4, 0);
    CALL(connect(c, &a.sa, a.len));
    settle();
    EPOLL_WAIT(ep, 4, 5000);
    SO_ERROR_OF(c);
    EPOLL_WAIT(ep, 4, 0);
    close_both(c, deaf);
    CALL(close(ep));
}

SCENARIO(epoll_registered_while_connecting_one_shot, SMC)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int ep = epoll_create1(0);
    CALL(connect(c, &a.sa, a.len));
    ADD(ep, c, EPOLLOUT | EPOLLONESHOT, 'c');
    EPOLL_WAIT(ep, 4, 5000);
    int s = accept_one(l);
    checkpoint(2);
    settle();
    EPOLL_WAIT(ep, 4, 50);
    MOD(ep, c, EPOLLIN | EPOLLONESHOT, 'c');
    EPOLL_WAIT(ep, 4, 50);
    SEND(s, "x", 0);
    EPOLL_WAIT(ep, 4, 5000);
    EPOLL_WAIT(ep, 4, 50);
    close_both(c, s);
    close_both(l, ep);
}

SCENARIO(epoll_registered_then_copied, SMC)
{
    PAIR(c, s);
    int ep = epoll_create1(0);
    ADD(ep, s, EPOLLIN, 's');
    int d = dup(s);
    ADD(ep, d, EPOLLIN, 'd');
    SEND(c, "twice", 0);
    await(s, POLLIN);
    EPOLL_WAIT(ep, 4, 5000);
    DEL(ep, s, 's');
    EPOLL_WAIT(ep, 4, 0);
    RECV(d, 100, 0);
    EPOLL_WAIT(ep, 4, 0);
    close_both(c, s);
    EPOLL_WAIT(ep, 4, 5000);
    close_both(d, ep);
}

/* A registration belongs to the connection: it outlives the number. */
SCENARIO(epoll_number_closed_copy_lives, SMC)
{
    PAIR(c, s);
    int ep = epoll_create1(0);
    ADD(ep, s, EPOLLIN, 's');
    int d = dup(s);
    CALL(close(s));
    SEND(c, "to the ghost", 0);
    EPOLL_WAIT(ep, 4, 5000);
    DEL(ep, s, 's');
    RECV(d, 100, 0);
    EPOLL_WAIT(ep, 4, 0);
    CALL(close(d));
    EPOLL_WAIT(ep, 4, 50);
    close_both(c, ep);
}

SCENARIO(epoll_close_removes, SMC)
{
    enum { NUMBER = 60 };
    PAIR(c, s);
    int ep = epoll_create1(0);
    MUST(dup2(s, NUMBER));
    MUST(close(s));
    ADD(ep, NUMBER, EPOLLIN | EPOLLOUT, 's');
    EPOLL_WAIT(ep, 4, 0);
    CALL(close(NUMBER));
    EPOLL_WAIT(ep, 4, 50);
    /* Another connection at the same number. */
    int d, t;
    tcp_pair_of(AF_INET, &d, &t);
    MUST(dup2(t, NUMBER));
    EPOLL_WAIT(ep, 4, 50);
    ADD(ep, NUMBER, EPOLLIN, 't');
    SEND(d, "x", 0);
    EPOLL_WAIT(ep, 4, 5000);
    close_both(d, t);
    close_both(c, NUMBER);
    CALL(close(ep));
}

SCENARIO(epoll_listener, TCP_ONLY)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int ep = epoll_create1(0);
    ADD(ep, l, EPOLLIN | EPOLLET, 'l');
    EPOLL_WAIT(ep, 4, 0);
    int c = connect_to(&a);
    EPOLL_WAIT(ep, 4, 5000);
    EPOLL_WAIT(ep, 4, 50);
    int d = connect_to(&a);
    EPOLL_WAIT(ep, 4, 5000);
    int s = accept_one(l), t = accept_one(l);
    EPOLL_WAIT(ep, 4, 50);
    MOD(ep, l, EPOLLIN, 'l');
    EPOLL_WAIT(ep, 4, 50);
    close_both(c, d);
    close_both(s, t);
    close_both(l, ep);
}

static void exclusive_waiter(struct task *t)
{
    int ep = epoll_create1(0);
    struct epoll_event ev = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data.u64 = 'l'};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, t->fd, &ev));
    t->value = epoll_wait(ep, &ev, 1, 8000);
    int s = accept_one(t->fd);
    char b[8];
    say("woken %ld, received %zd", t->value, recv(s, b, 8, 0));
    close(s);
    close(ep);
}

SCENARIO(epoll_exclusive_listener, TCP_ONLY)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    struct task t = {0}, u = {0};
    start(&t, "one", exclusive_waiter, l);
    await_blocked(&t);
    int c = connect_to(&a);
    SEND(c, "x", 0);
    join(&t);
    start(&u, "two", exclusive_waiter, l);
    await_blocked(&u);
    int d = connect_to(&a);
    SEND(d, "yz", 0);
    join(&u);
    close_both(c, d);
    CALL(close(l));
}

static void set_waiter(struct task *t)
{
    struct epoll_event ev;
    t->value = epoll_wait(t->fd, &ev, 1, t->fd2);
}

/* Two threads in epoll_wait on one set: an edge wakes one of them. */
SCENARIO(epoll_two_waiters_edge, SMC)
{
    PAIR(c, s);
    int ep = epoll_create1(0);
    ADD(ep, s, EPOLLIN | EPOLLET, 's');
    struct task t = {.fd2 = 1500}, u = {.fd2 = 1500};
    start(&t, "one", set_waiter, ep);
    start(&u, "two", set_waiter, ep);
    await_blocked(&t);
    await_blocked(&u);
    SEND(c, "x", 0);
    join(&t);
    join(&u);
    say("woken together: %ld", t.value + u.value);
    close_both(c, s);
    CALL(close(ep));
}

SCENARIO(epoll_two_waiters_two_sockets, SMC)
{
    PAIR(c, s);
    int d, e;
    tcp_pair_of(AF_INET, &d, &e);
    int ep = epoll_create1(0);
    ADD(ep, s, EPOLLIN | EPOLLET, 's');
    ADD(ep, e, EPOLLIN | EPOLLET, 'e');
    struct task t = {.fd2 = 8000}, u = {.fd2 = 8000};
    start(&t, "one", set_waiter, ep);
    start(&u, "two", set_waiter, ep);
    await_blocked(&t);
    await_blocked(&u);
    SEND(c, "x", 0);
    SEND(d, "x", 0);
    join(&t);
    join(&u);
    say("woken together: %ld", t.value + u.value);
    close_both(c, s);
    close_both(d, e);
    CALL(close(ep));
}

static void adder(struct task *t)
{
    settle();
    ADD(t->fd, t->fd2, EPOLLIN, 's');
}

/* A socket added while another thread waits on the set. */
SCENARIO(epoll_added_while_waiting, SMC)
{
    PAIR(c, s);
    SEND(c, "pending", 0);
    await(s, POLLIN);
    int ep = epoll_create1(0);
    struct task t = {.fd2 = s};
    start(&t, "adder", adder, ep);
    EPOLL_WAIT(ep, 4, 8000);
    join(&t);
    close_both(c, s);
    CALL(close(ep));
}

/* Sockets, a pipe and a timer-like thing in one set. */
SCENARIO(epoll_mixed_kinds, SMC)
{
    PAIR(c, s);
    int p[2], ep = epoll_create1(EPOLL_CLOEXEC);
    MUST(pipe(p));
    ADD(ep, p[0], EPOLLIN, 'p');
    ADD(ep, s, EPOLLIN, 's');
    EPOLL_WAIT(ep, 4, 0);
    CALL(write(p[1], "x", 1));
    EPOLL_WAIT(ep, 4, 5000);
    SEND(c, "x", 0);
    await(s, POLLIN);
    EPOLL_WAIT(ep, 4, 5000);
    char b[4];
    CALL(read(p[0], b, 4));
    EPOLL_WAIT(ep, 4, 5000);
    RECV(s, 4, 0);
    EPOLL_WAIT(ep, 4, 0);
    close_both(p[0], p[1]);
    close_both(c, s);
    CALL(close(ep));
}

static void set_waiter_child(int ep, int s)
{
    EPOLL_WAIT(ep, 4, 8000);
    RECV(s, 100, MSG_DONTWAIT);
}

SCENARIO(epoll_set_crosses_fork, SMC)
{
    PAIR(c, s);
    int ep = epoll_create1(0);
    ADD(ep, s, EPOLLIN, 's');
    pid_t pid = fork_child();
    if (pid == 0) {
        set_waiter_child(ep, s);
        return;
    }
    settle();
    SEND(c, "to the child", 0);
    reap(pid);
    EPOLL_WAIT(ep, 4, 50);
    SEND(c, "to the parent", 0);
    EPOLL_WAIT(ep, 4, 5000);
    RECV(s, 100, 0);
    close_both(c, s);
    CALL(close(ep));
}

/* A thread sleeps on a set without connections; another one puts one in. */
static void added_under_a_sleeper(unsigned events, bool was_in_it, bool data_first)
{
    PAIR(c, s);
    int ep = epoll_create1(0), pipes[2];
    MUST(pipe(pipes));
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = 'p'};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, pipes[0], &ev));
    ev = (struct epoll_event){.events = events, .data.u64 = 'c'};
    SEND(s, "first", 0);
    await(c, POLLIN);
    RECV(c, 10, 0);
    if (was_in_it) {
        CALL(epoll_ctl(ep, EPOLL_CTL_ADD, c, &ev));
        EPOLL_WAIT(ep, 4, 0);
        SEND(s, "more", 0);
        EPOLL_WAIT(ep, 4, 5000);
        RECV(c, 10, 0);
        CALL(epoll_ctl(ep, EPOLL_CTL_DEL, c, NULL));
    }
    checkpoint(2);
    struct task t = {.fd2 = 8000};
    start(&t, "sleeper", set_waiter, ep);
    await_blocked(&t);
    if (data_first)
        SEND(s, "second", 0);
    CALL(epoll_ctl(ep, EPOLL_CTL_ADD, c, &ev));
    if (!data_first) {
        settle();
        SEND(s, "second", 0);
    }
    join(&t);
    say("woken: %ld", t.value);
    RECV(c, 10, MSG_DONTWAIT);
    close_both(c, s);
    close_both(ep, pipes[0]);
    close(pipes[1]);
}

#define UNDER_A_SLEEPER(NAME, EVENTS)                                             \
    SCENARIO(NAME, SMC) { added_under_a_sleeper(EVENTS, false, false); }          \
    SCENARIO(NAME##_again, SMC) { added_under_a_sleeper(EVENTS, true, false); }   \
    SCENARIO(NAME##_after_data, SMC) { added_under_a_sleeper(EVENTS, true, true); }
UNDER_A_SLEEPER(epoll_add_under_a_sleeper, EPOLLIN)
UNDER_A_SLEEPER(epoll_add_edge_under_a_sleeper, EPOLLIN | EPOLLET)
UNDER_A_SLEEPER(epoll_add_once_under_a_sleeper, EPOLLIN | EPOLLONESHOT)

enum { ROUNDS = 30000, PAIRS = 4 };

/* Answers each message, reading no more than there is: only an edge brings it back. */
static void edge_server(struct task *t)
{
    long answered = 0;
    while (answered < (long)ROUNDS * PAIRS) {
        struct epoll_event ev[PAIRS];
        int n = epoll_wait(t->fd, ev, PAIRS, 3000);
        if (n <= 0)
            break;
        for (int i = 0; i < n; i++) {
            char b[64];
            if (!(ev[i].events & EPOLLIN))
                continue;
            ssize_t got = recv(ev[i].data.fd, b, sizeof b, MSG_DONTWAIT);
            if (got > 0)
                answered += send(ev[i].data.fd, b, got, MSG_NOSIGNAL) == got;
        }
    }
    say("answered %ld", answered);
}

static void edge_client(struct task *t)
{
    char b[8] = "request";
    long done = 0;
    struct timeval limit = {4, 0};
    MUST(setsockopt(t->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    while (done < ROUNDS && send(t->fd, b, 8, MSG_NOSIGNAL) == 8 &&
           recv(t->fd, b, 8, MSG_WAITALL) == 8)
        done++;
    say("done %ld", done);
}

/* No edge is lost between one look and the next. */
SCENARIO(epoll_edges_of_many_messages, SMC)
{
    int ep = epoll_create1(0), c[PAIRS], s[PAIRS];
    struct task clients[PAIRS] = {0}, server = {0};
    const char *names[PAIRS] = {"one", "two", "three", "four"};
    for (int i = 0; i < PAIRS; i++) {
        tcp_pair_of(AF_INET, &c[i], &s[i]);
        struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                 .data.fd = s[i]};
        MUST(epoll_ctl(ep, EPOLL_CTL_ADD, s[i], &ev));
    }
    checkpoint(2 * PAIRS);
    start(&server, "server", edge_server, ep);
    for (int i = 0; i < PAIRS; i++)
        start(&clients[i], names[i], edge_client, c[i]);
    for (int i = 0; i < PAIRS; i++)
        join(&clients[i]);
    join(&server);
    for (int i = 0; i < PAIRS; i++)
        close_both(c[i], s[i]);
    CALL(close(ep));
}
