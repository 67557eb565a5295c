/* bind, listen, accept: variants, flags, readiness. */
#include "scenarios.h"
#define THEME "listen"

SCENARIO(listener_readiness, SMC)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    LOOK(l);
    int c = connect_to(&a);
    await(l, POLLIN);
    LOOK(l);
    int d = connect_to(&a);
    settle();
    LOOK(l);
    int s = accept_one(l);
    LOOK(l);
    int t = accept_one(l);
    checkpoint(2);
    LOOK(l);
    nonblock(l);
    CALL(accept(l, NULL, NULL));
    close_both(c, d);
    close_both(s, t);
    CALL(close(l));
}

SCENARIO(accept4_flags, SMC)
{
    struct addr a;
    int l = listener(AF_INET, 8, &a);
    static const int flags[] = {0, SOCK_NONBLOCK, SOCK_CLOEXEC, SOCK_NONBLOCK | SOCK_CLOEXEC};
    for (int i = 0; i < 4; i++) {
        int c = connect_to(&a);
        int s = accept4(l, NULL, NULL, flags[i]);
        say("flags %#x", flags[i]);
        if (i == 1)
            checkpoint(2);
        FLAGS_OF(s);
        SEND(c, "x", 0);
        await(s, POLLIN);
        RECV(s, 4, 0);
        FLAGS_OF(s);
        FLAGS_OF(c);
        close_both(c, s);
    }
    CALL(accept4(l, NULL, NULL, 3));
    CALL(accept4(l, NULL, NULL, SOCK_STREAM));
    CALL(close(l));
}

SCENARIO(accepted_does_not_inherit_flags, SMC)
{
    struct addr a;
    int l = listener(AF_INET, 8, &a);
    nonblock(l);
    MUST(fcntl(l, F_SETFD, FD_CLOEXEC));
    set_int(l, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_int(l, IPPROTO_TCP, TCP_NODELAY, 1);
    int c = connect_to(&a);
    await(l, POLLIN);
    int s = accept_one(l);
    checkpoint(2);
    FLAGS_OF(l);
    FLAGS_OF(s);
    say("options inherited: %d %d", get_int(s, SOL_SOCKET, SO_KEEPALIVE),
        get_int(s, IPPROTO_TCP, TCP_NODELAY));
    close_both(c, s);
    CALL(close(l));
}

SCENARIO(accept_address, SMC)
{
    struct addr a;
    int l = listener(AF_INET, 8, &a);
    int c[5], s[5];
    for (int i = 0; i < 5; i++)
        c[i] = connect_to(&a);
    struct addr from = {.len = sizeof from.ss};
    s[0] = (int)CALL(accept(l, &from.sa, &from.len));
    name_say("whole", &from.sa, sizeof from.ss, from.len);
    from.len = 4;
    memset(&from.ss, 0x55, sizeof from.ss);
    s[1] = (int)CALL(accept(l, &from.sa, &from.len));
    say("short: length %u, byte after %#x", from.len, ((unsigned char *)&from)[4]);
    from.len = 0;
    s[2] = (int)CALL(accept(l, &from.sa, &from.len));
    say("nothing: length %u", from.len);
    s[3] = (int)CALL(accept4(l, NULL, NULL, 0));
    s[4] = (int)CALL(accept(l, NULL, &from.len));
    for (int i = 0; i < 5; i++) {
        SEND(c[i], "x", 0);
        await(s[i], POLLIN);
        RECV(s[i], 4, 0);
    }
    checkpoint(2);
    for (int i = 0; i < 5; i++)
        close_both(c[i], s[i]);
    CALL(close(l));
}

SCENARIO(accept_wrong_arguments, TCP_ONLY)
{
    struct addr a, from;
    int l = listener(AF_INET, 8, &a);
    int unbound = socket(AF_INET, SOCK_STREAM, 0);
    CALL(accept(unbound, NULL, NULL));
    nonblock(l);
    CALL(accept(l, NULL, NULL));
    from.len = (socklen_t)-1;
    CALL(accept(l, &from.sa, &from.len));
    CALL(recv(l, &from, 4, 0));
    CALL(send(l, &from, 4, MSG_NOSIGNAL));
    CALL(getpeername(l, &from.sa, &from.len));
    close_both(l, unbound);
}

SCENARIO(bind_variants, TCP_ONLY)
{
    struct addr a, b;
    int l = listener(AF_INET, 8, &a);
    int second = socket(AF_INET, SOCK_STREAM, 0);
    CALL(bind(second, &a.sa, a.len));
    set_int(second, SOL_SOCKET, SO_REUSEADDR, 1);
    CALL(bind(second, &a.sa, a.len));
    b = loopback(AF_INET, 0);
    b.in.sin_addr.s_addr = inet_addr("203.0.113.7");
    CALL(bind(second, &b.sa, b.len));
    b = loopback(AF_INET6, 0);
    CALL(bind(second, &b.sa, b.len));
    b = loopback(AF_INET, 0);
    CALL(bind(second, &b.sa, 3));
    CALL(bind(second, (struct sockaddr *)8, sizeof b.in));
    CALL(bind(second, &b.sa, b.len));
    CALL(bind(second, &b.sa, b.len));
    close_both(l, second);
}

SCENARIO(bind_reuseport, TCP_ONLY)
{
    struct addr a = loopback(AF_INET, 0);
    int x = socket(AF_INET, SOCK_STREAM, 0), y = socket(AF_INET, SOCK_STREAM, 0);
    set_int(x, SOL_SOCKET, SO_REUSEPORT, 1);
    set_int(y, SOL_SOCKET, SO_REUSEPORT, 1);
    CALL(bind(x, &a.sa, a.len));
    a = local_of(x);
    CALL(bind(y, &a.sa, a.len));
    CALL(listen(x, 5));
    CALL(listen(y, 5));
    /* Whichever of the two gets it. */
    int c = connect_to(&a);
    struct pollfd p[2] = {{x, POLLIN, 0}, {y, POLLIN, 0}};
    CALL(poll(p, 2, 5000));
    int s = accept_one(p[0].revents ? x : y);
    SEND(c, "either", 0);
    await(s, POLLIN);
    RECV(s, 10, 0);
    close_both(c, s);
    close_both(x, y);
}

SCENARIO(listen_variants, TCP_ONLY)
{
    int l = socket(AF_INET, SOCK_STREAM, 0);
    say("accepting: %d", get_int(l, SOL_SOCKET, SO_ACCEPTCONN));
    CALL(listen(l, 5));
    say("accepting: %d", get_int(l, SOL_SOCKET, SO_ACCEPTCONN));
    struct addr a = local_of(l);
    name_say("bound by listen", &a.sa, sizeof a.ss, a.len);
    CALL(listen(l, 50));
    CALL(listen(l, -1));
    CALL(connect(l, &a.sa, a.len));
    CALL(bind(l, &a.sa, a.len));
    CALL(shutdown(l, SHUT_WR));
    LOOK(l);
    CALL(shutdown(l, SHUT_RDWR));
    LOOK(l);
    CALL(accept4(l, NULL, NULL, SOCK_NONBLOCK));
    CALL(listen(l, 5));
    LOOK(l);
    CALL(close(l));
}

SCENARIO(listen_any_address, SMC)
{
    struct addr any = {.len = sizeof any.in};
    any.in = (struct sockaddr_in){.sin_family = AF_INET};
    int l = socket(AF_INET, SOCK_STREAM, 0);
    CALL(bind(l, &any.sa, any.len));
    CALL(listen(l, 5));
    any = local_of(l);
    struct addr a = loopback(AF_INET, port_of(&any));
    int c = connect_to(&a), s = accept_one(l);
    checkpoint(2);
    struct addr own = local_of(s);
    name_say("accepted", &own.sa, sizeof own.ss, own.len);
    /* All of 127/8 is the loopback. */
    a.in.sin_addr.s_addr = inet_addr("127.1.2.3");
    int d = connect_to(&a), t = accept_one(l);
    own = local_of(t);
    name_say("accepted", &own.sa, sizeof own.ss, own.len);
    SEND(d, "x", 0);
    await(t, POLLIN);
    RECV(t, 4, 0);
    /* To the unspecified address: the same host. */
    a.in.sin_addr.s_addr = INADDR_ANY;
    int e = connect_to(&a), u = accept_one(l);
    own = peer_of(e);
    name_say("peer", &own.sa, sizeof own.ss, own.len);
    SEND(e, "x", 0);
    await(u, POLLIN);
    RECV(u, 4, 0);
    close_both(c, s);
    close_both(d, t);
    close_both(e, u);
    CALL(close(l));
}

SCENARIO(listen_dual_stack, SMC)
{
    struct addr any = {.len = sizeof any.in6};
    memset(&any.in6, 0, sizeof any.in6);
    any.in6.sin6_family = AF_INET6;
    int l = socket(AF_INET6, SOCK_STREAM, 0);
    set_int(l, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    CALL(bind(l, &any.sa, any.len));
    CALL(listen(l, 5));
    any = local_of(l);
    struct addr four = loopback(AF_INET, port_of(&any)), six = loopback(AF_INET6, port_of(&any));
    int c = connect_to(&four), s = accept_one(l);
    struct addr n = peer_of(s);
    name_say("from IPv4", &n.sa, sizeof n.ss, n.len);
    n = local_of(s);
    name_say("own", &n.sa, sizeof n.ss, n.len);
    SEND(c, "four", 0);
    await(s, POLLIN);
    RECV(s, 10, 0);
    checkpoint(2);
    int d = connect_to(&six), t = accept_one(l);
    n = peer_of(t);
    name_say("from IPv6", &n.sa, sizeof n.ss, n.len);
    SEND(d, "six", 0);
    await(t, POLLIN);
    RECV(t, 10, 0);
    /* An IPv6 socket to a mapped address. */
    inet_pton(AF_INET6, "::ffff:127.0.0.1", &six.in6.sin6_addr);
    int e = connect_to(&six), u = accept_one(l);
    n = peer_of(e);
    name_say("mapped peer", &n.sa, sizeof n.ss, n.len);
    SEND(e, "mapped", 0);
    await(u, POLLIN);
    RECV(u, 10, 0);
    close_both(c, s);
    close_both(d, t);
    close_both(e, u);
    CALL(close(l));
}

/* The end that closes first holds the port for a while. */
static void rebind(bool server_first)
{
    struct addr a = quiet_address();
    int l = socket(AF_INET, SOCK_STREAM, 0);
    MUST(bind(l, &a.sa, a.len));
    MUST(listen(l, 5));
    int c = connect_to(&a), s = accept_one(l);
    checkpoint(2);
    SEND(c, "x", 0);
    await(s, POLLIN);
    RECV(s, 4, 0);
    CALL(close(l));
    CALL(close(server_first ? s : c));
    await(server_first ? c : s, POLLRDHUP);
    CALL(close(server_first ? c : s));
    settle();
    l = socket(AF_INET, SOCK_STREAM, 0);
    CALL(bind(l, &a.sa, a.len));
    set_int(l, SOL_SOCKET, SO_REUSEADDR, 1);
    if (server_first)
        CALL(bind(l, &a.sa, a.len));
    CALL(listen(l, 5));
    CALL(close(l));
}

SCENARIO(rebind_after_server_closed_first, SMC)
{
    rebind(true);
}

SCENARIO(rebind_after_client_closed_first, SMC)
{
    rebind(false);
}

/* A restarted server binds with SO_REUSEADDR while an old connection lives. */
SCENARIO(rebind_while_connected, SMC)
{
    struct addr a = quiet_address();
    int l = socket(AF_INET, SOCK_STREAM, 0);
    set_int(l, SOL_SOCKET, SO_REUSEADDR, 1);
    MUST(bind(l, &a.sa, a.len));
    MUST(listen(l, 5));
    int c = connect_to(&a), s = accept_one(l);
    checkpoint(2);
    CALL(close(l));
    l = socket(AF_INET, SOCK_STREAM, 0);
    CALL(bind(l, &a.sa, a.len));
    set_int(l, SOL_SOCKET, SO_REUSEADDR, 1);
    CALL(bind(l, &a.sa, a.len));
    CALL(listen(l, 5));
    int d = connect_to(&a), t = accept_one(l);
    SEND(c, "old", 0);
    SEND(d, "new", 0);
    await(s, POLLIN);
    await(t, POLLIN);
    RECV(s, 10, 0);
    RECV(t, 10, 0);
    close_both(c, s);
    close_both(d, t);
    CALL(close(l));
}

static void two_accepts(struct task *t)
{
    int s = accept_one(t->fd);
    char buf[4] = "?";
    ssize_t n = recv(s, buf, 1, 0);
    t->value = n == 1 ? buf[0] : 0;
    close(s);
}

SCENARIO(two_threads_accept, TCP_ONLY)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    struct task t = {0}, u = {0};
    start(&t, "first", two_accepts, l);
    start(&u, "second", two_accepts, l);
    await_blocked(&t);
    await_blocked(&u);
    int c = connect_to(&a), d = connect_to(&a);
    SEND(c, "a", 0);
    SEND(d, "b", 0);
    join(&t);
    join(&u);
    say("each got one: %d", t.value + u.value == 'a' + 'b' && t.value != u.value);
    close_both(c, d);
    CALL(close(l));
}

SCENARIO(descriptor_numbers, SMC)
{
    /* The lowest free number, as programs that dup by close and open expect. */
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int c = connect_to(&a), s = accept_one(l);
    checkpoint(2);
    say("numbers follow: %d %d", c - l, s - c);
    SEND(c, "x", 0);
    await(s, POLLIN);
    RECV(s, 4, 0);
    CALL(close(c));
    int again = open("/dev/null", O_RDONLY);
    say("the freed number is used again: %d", again == c);
    int next = dup(again);
    say("and then the next: %d", next - s);
    close_both(again, next);
    close_both(s, l);
}
