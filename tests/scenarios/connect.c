/* connect: blocking, non-blocking, refused, repeated, and its readiness. */
#include "scenarios.h"
#define THEME "connect"

/* A port on which nobody listens: bound, so that nobody else can take it. */
static int deaf_port(struct addr *a)
{
    return bound_socket(AF_INET, a);
}

SCENARIO(connect_non_blocking, SMC)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    LOOK(c);
    CALL(connect(c, &a.sa, a.len));
    POLL(c, POLLOUT, 5000);
    SO_ERROR_OF(c);
    LOOK(c);
    int s = accept_one(l);
    checkpoint(2);
    LOOK(c);
    RECV(c, 10, 0);
    SEND(s, "greeting", 0);
    await(c, POLLIN);
    RECV(c, 10, 0);
    close_both(c, s);
    CALL(close(l));
}

SCENARIO(connect_non_blocking_accepted_first, SMC)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CALL(connect(c, &a.sa, a.len));
    int s = accept_one(l);
    SEND(s, "greeting", 0);
    await(c, POLLIN);
    LOOK(c);
    CALL(connect(c, &a.sa, a.len));
    CALL(connect(c, &a.sa, a.len));
    RECV(c, 10, 0);
    checkpoint(2);
    close_both(c, s);
    CALL(close(l));
}

SCENARIO(connect_non_blocking_refused, TCP_ONLY)
{
    struct addr a;
    int deaf = deaf_port(&a);
    int c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CALL(connect(c, &a.sa, a.len));
    await_reset(c);
    LOOK(c);
    SO_ERROR_OF(c);
    SO_ERROR_OF(c);
    LOOK(c);
    RECV(c, 10, 0);
    SEND(c, "x", MSG_NOSIGNAL);
    CALL(close(c));
    CALL(close(deaf));
}

SCENARIO(connect_non_blocking_refused_asked_by_connect, TCP_ONLY)
{
    struct addr a;
    int deaf = deaf_port(&a);
    int c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CALL(connect(c, &a.sa, a.len));
    await_reset(c);
    CALL(connect(c, &a.sa, a.len));
    CALL(close(c));
    CALL(close(deaf));
}

SCENARIO(connect_non_blocking_refused_asked_by_recv, TCP_ONLY)
{
    struct addr a;
    int deaf = deaf_port(&a);
    int c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CALL(connect(c, &a.sa, a.len));
    await_reset(c);
    RECV(c, 10, 0);
    RECV(c, 10, 0);
    SO_ERROR_OF(c);
    CALL(close(c));
    CALL(close(deaf));
}

SCENARIO(connect_refused, TCP_ONLY)
{
    struct addr a;
    int deaf = deaf_port(&a);
    int c = socket(AF_INET, SOCK_STREAM, 0);
    CALL(connect(c, &a.sa, a.len));
    SO_ERROR_OF(c);
    LOOK(c);
    CALL(connect(c, &a.sa, a.len));
    /* The same socket may still connect elsewhere. */
    CALL(listen(deaf, 5));
    CALL(connect(c, &a.sa, a.len));
    int s = accept_one(deaf);
    SEND(s, "at last", 0);
    await(c, POLLIN);
    RECV(c, 10, 0);
    close_both(c, s);
    CALL(close(deaf));
}

SCENARIO(connect_refused_ipv6, TCP_ONLY)
{
    struct addr a;
    int deaf = bound_socket(AF_INET6, &a);
    int c = socket(AF_INET6, SOCK_STREAM, 0);
    CALL(connect(c, &a.sa, a.len));
    close_both(c, deaf);
}

SCENARIO(connect_twice, SMC)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int c = connect_to(&a);
    CALL(connect(c, &a.sa, a.len));
    int s = accept_one(l);
    checkpoint(2);
    CALL(connect(c, &a.sa, a.len));
    CALL(connect(s, &a.sa, a.len));
    CALL(listen(c, 5));
    CALL(bind(c, &a.sa, a.len));
    CALL(accept(c, NULL, NULL));
    close_both(c, s);
    CALL(close(l));
}

/* The backlog is full: the peer's kernel drops the SYN. */
static int full_backlog(struct addr *a, int *first)
{
    int l = listener(AF_INET, 0, a);
    *first = connect_to(a);
    await(l, POLLIN);
    return l;
}

SCENARIO(connect_already, TCP_ONLY)
{
    struct addr a;
    int first, l = full_backlog(&a, &first);
    int c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CALL(connect(c, &a.sa, a.len));
    CALL(connect(c, &a.sa, a.len));
    POLL(c, POLLIN | POLLOUT | POLLRDHUP, 100);
    RECV(c, 10, 0);
    SEND(c, "x", MSG_NOSIGNAL);
    SO_ERROR_OF(c);
    struct addr peer = {.len = sizeof peer.ss};
    CALL(getpeername(c, &peer.sa, &peer.len));
    CALL(close(accept_one(l)));
    /* The SYN is sent again after a second. */
    POLL(c, POLLOUT, 8000);
    CALL(connect(c, &a.sa, a.len));
    CALL(connect(c, &a.sa, a.len));
    close_both(c, first);
    CALL(close(l));
}

SCENARIO(connect_times_out, TCP_ONLY)
{
    struct addr a;
    int first, l = full_backlog(&a, &first);
    int c = socket(AF_INET, SOCK_STREAM, 0);
    struct timeval tv = {0, 300000};
    CALL(setsockopt(c, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv));
    long t = now_ms();
    CALL(connect(c, &a.sa, a.len));
    elapsed_say(t, 250, 2500);
    CALL(connect(c, &a.sa, a.len));
    CALL(close(c));
    close_both(first, l);
}

SCENARIO(connect_cancelled_by_close, TCP_ONLY)
{
    struct addr a;
    int first, l = full_backlog(&a, &first);
    int c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CALL(connect(c, &a.sa, a.len));
    CALL(close(c));
    close_both(first, l);
}

SCENARIO(connect_cancelled_by_shutdown, TCP_ONLY)
{
    struct addr a;
    int first, l = full_backlog(&a, &first);
    int c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CALL(connect(c, &a.sa, a.len));
    CALL(shutdown(c, SHUT_RDWR));
    LOOK(c);
    CALL(connect(c, &a.sa, a.len));
    CALL(close(c));
    close_both(first, l);
}

SCENARIO(connect_wrong_arguments, TCP_ONLY)
{
    struct addr a = loopback(AF_INET, 9);
    int c = socket(AF_INET, SOCK_STREAM, 0);
    CALL(connect(c, &a.sa, 2));
    CALL(connect(c, &a.sa, 1));
    CALL(connect(c, &a.sa, sizeof a.ss + 1));
    CALL(connect(c, &a.sa, (socklen_t)-1));
    CALL(connect(c, (struct sockaddr *)8, sizeof a.in));
    a.sa.sa_family = AF_UNIX;
    CALL(connect(c, &a.sa, a.len));
    a = loopback(AF_INET6, 9);
    CALL(connect(c, &a.sa, a.len));
    CALL(close(c));
    CALL(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP));
    CALL(socket(AF_INET, 77, 0));
    CALL(socket(AF_INET, SOCK_SEQPACKET, IPPROTO_TCP));
}

SCENARIO(connect_unspec_disconnects, SMC)
{
    PAIR(c, s);
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    SEND(s, "lost", 0);
    await(c, POLLIN);
    CALL(connect(c, &none, sizeof none));
    LOOK(c);
    struct addr peer = {.len = sizeof peer.ss};
    CALL(getpeername(c, &peer.sa, &peer.len));
    RECV(c, 10, MSG_DONTWAIT);
    await_reset(s);
    LOOK(s);
    CALL(close(s));
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    CALL(connect(c, &a.sa, a.len));
    s = accept_one(l);
    SEND(s, "second life", 0);
    await(c, POLLIN);
    RECV(c, 20, 0);
    close_both(c, s);
    CALL(close(l));
}

SCENARIO(connect_to_oneself, TCP_ONLY)
{
    struct addr a;
    int c = bound_socket(AF_INET, &a);
    CALL(connect(c, &a.sa, a.len));
    SEND(c, "echo without a server", 0);
    await(c, POLLIN);
    RECV(c, 100, 0);
    CALL(shutdown(c, SHUT_WR));
    await(c, POLLRDHUP);
    RECV(c, 100, 0);
    CALL(close(c));
}

SCENARIO(connect_from_a_bound_port, SMC)
{
    struct addr a, mine;
    int l = listener(AF_INET, 5, &a);
    int c = bound_socket(AF_INET, &mine);
    CALL(connect(c, &a.sa, a.len));
    struct addr seen = {.len = sizeof seen.ss};
    int s = (int)CALL(accept(l, &seen.sa, &seen.len));
    checkpoint(2);
    say("the server sees the bound port: %d", port_of(&seen) == port_of(&mine));
    SEND(c, "hello", 0);
    await(s, POLLIN);
    RECV(s, 10, 0);
    close_both(c, s);
    CALL(close(l));
}

static void late_acceptor(struct task *t)
{
    settle();
    int s = accept_one(t->fd);
    RECV(s, 100, MSG_WAITALL);
    CALL(close(s));
}

SCENARIO(connect_two_threads, TCP_ONLY)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    struct task t = {0};
    start(&t, "acceptor", late_acceptor, l);
    int c = connect_to(&a);
    SEND(c, "before the accept", 0);
    settle();
    SEND(c, " and after", 0);
    CALL(close(c));
    join(&t);
    CALL(close(l));
}

SCENARIO(io_before_connect, TCP_ONLY)
{
    int c = socket(AF_INET, SOCK_STREAM, 0);
    char buf[4];
    RECV(c, 10, 0);
    CALL(read(c, buf, sizeof buf));
    SEND(c, "x", 0);
    SEND(c, "x", MSG_NOSIGNAL);
    LOOK(c);
    struct addr a = {.len = sizeof a.ss};
    CALL(getpeername(c, &a.sa, &a.len));
    a.len = sizeof a.ss;
    CALL(getsockname(c, &a.sa, &a.len));
    name_say("own name", &a.sa, sizeof a.ss, a.len);
    CALL(accept(c, NULL, NULL));
    CALL(close(c));
}
