/* poll, ppoll, select, pselect. */
#include "scenarios.h"
#define THEME "poll"

static void poll_many_say(struct pollfd *p, int n, int timeout)
{
    char text[512];
    int k = 0;
    for (int i = 0; i < n; i++)
        p[i].revents = 0;
    errno = 0;
    int rc = poll(p, (nfds_t)n, timeout);
    text[0] = 0;
    for (int i = 0; i < n; i++)
        k += snprintf(text + k, sizeof text - (size_t)k, " %s",
                      poll_names((unsigned short)p[i].revents));
    say("poll %d = %d %s:%s", timeout, rc, rc < 0 ? errno_name(errno) : "", text);
}

SCENARIO(poll_several, SMC)
{
    PAIR(c, s);
    int d, t, p[2];
    tcp_pair_of(AF_INET, &d, &t);
    MUST(pipe(p));
    struct pollfd f[] = {{c, POLLIN, 0},  {-1, POLLIN, 0},   {s, POLLIN | POLLOUT, 0},
                         {99, POLLIN, 0}, {-s, POLLIN, 0},   {t, POLLIN | POLLRDHUP, 0},
                         {p[0], POLLIN, 0}, {c, POLLOUT, 0}, {t, 0, 0}};
    poll_many_say(f, 9, 0);
    SEND(s, "x", 0);
    await(c, POLLIN);
    CALL(write(p[1], "x", 1));
    poll_many_say(f, 9, 1000);
    CALL(close(d));
    await(t, POLLRDHUP);
    poll_many_say(f, 9, 1000);
    RECV(c, 10, 0);
    CALL(close(c));
    await(s, POLLRDHUP);
    poll_many_say(f, 9, 1000);
    close_both(s, t);
    close_both(p[0], p[1]);
    poll_many_say(f, 9, 1000);
}

SCENARIO(poll_many_connections, SMC)
{
    enum { N = 80 };
    int c[N], s[N];
    struct pollfd f[N];
    struct addr a;
    int l = listener(AF_INET, N, &a);
    for (int i = 0; i < N; i++) {
        c[i] = connect_to(&a);
        s[i] = accept_one(l);
        f[i] = (struct pollfd){s[i], POLLIN, 0};
    }
    checkpoint(20);
    CALL(poll(f, N, 0));
    SEND(c[71], "x", 0);
    CALL(poll(f, N, 5000));
    say("the right one: %d", f[71].revents == POLLIN);
    SEND(c[3], "x", 0);
    await(s[3], POLLIN);
    CALL(poll(f, N, 5000));
    say("both: %d", f[71].revents == POLLIN && f[3].revents == POLLIN);
    fd_set r;
    FD_ZERO(&r);
    for (int i = 0; i < N; i++)
        FD_SET(s[i], &r);
    CALL(select(s[N - 1] + 1, &r, NULL, NULL, NULL));
    say("both: %d", FD_ISSET(s[71], &r) && FD_ISSET(s[3], &r) && !FD_ISSET(s[0], &r));
    for (int i = 0; i < N; i++) {
        close(c[i]);
        close(s[i]);
    }
    CALL(close(l));
}

SCENARIO(poll_every_event_alone, SMC)
{
    PAIR(c, s);
    static const short events[] = {POLLIN,     POLLPRI,    POLLOUT,    POLLRDHUP, POLLRDNORM,
                                   POLLRDBAND, POLLWRNORM, POLLWRBAND, POLLERR,   POLLHUP,
                                   POLLNVAL,   POLLMSG,    0};
    SEND(c, "x", 0);
    await(s, POLLIN);
    for (int round = 0; round < 2; round++) {
        for (unsigned i = 0; i < sizeof events / sizeof *events; i++)
            POLL(s, events[i], 0);
        CALL(shutdown(c, SHUT_WR));
        await(s, POLLRDHUP);
    }
    close_both(c, s);
}

SCENARIO(poll_after_close, SMC)
{
    PAIR(c, s);
    CALL(close(c));
    POLL(c, POLLIN | POLLOUT, 0);
    POLL(c, 0, 1000);
    fd_set r;
    FD_ZERO(&r);
    FD_SET(c, &r);
    struct timeval tv = {0, 0};
    CALL(select(c + 1, &r, NULL, NULL, &tv));
    say("left as it was: %d", FD_ISSET(c, &r) != 0);
    FD_ZERO(&r);
    FD_SET(s, &r);
    CALL(select(s, &r, NULL, NULL, &tv));
    say("beyond the count: %d", FD_ISSET(s, &r) != 0);
    CALL(close(s));
}

SCENARIO(poll_too_many, SMC)
{
    PAIR(c, s);
    struct rlimit old, low;
    MUST(getrlimit(RLIMIT_NOFILE, &old));
    low = old;
    low.rlim_cur = 400;
    MUST(setrlimit(RLIMIT_NOFILE, &low));
    static struct pollfd f[500];
    for (int i = 0; i < 500; i++)
        f[i] = (struct pollfd){i % 2 ? c : s, POLLOUT, 0};
    CALL(poll(f, 500, 0));
    CALL(poll(f, 400, 0));
    MUST(setrlimit(RLIMIT_NOFILE, &old));
    CALL(poll(f, 500, 0));
    close_both(c, s);
}

SCENARIO(select_sets, SMC)
{
    PAIR(c, s);
    fd_set r, w, x;
    struct timeval tv = {5, 0};
    SEND(c, "x", 0);
    await(s, POLLIN);
    FD_ZERO(&r);
    FD_ZERO(&w);
    FD_ZERO(&x);
    FD_SET(c, &r);
    FD_SET(s, &r);
    FD_SET(c, &w);
    FD_SET(s, &x);
    CALL(select((c > s ? c : s) + 1, &r, &w, &x, &tv));
    say("c %d%d s %d%d", FD_ISSET(c, &r) != 0, FD_ISSET(c, &w) != 0, FD_ISSET(s, &r) != 0,
        FD_ISSET(s, &x) != 0);
    say("time was left: %d", tv.tv_sec >= 1);
    FD_ZERO(&x);
    FD_SET(s, &x);
    tv = (struct timeval){0, 50000};
    CALL(select(s + 1, NULL, NULL, &x, &tv));
    say("s %d", FD_ISSET(s, &x) != 0);
    SEND(c, "!", MSG_OOB);
    await(s, POLLPRI);
    FD_SET(s, &x);
    tv = (struct timeval){5, 0};
    CALL(select(s + 1, NULL, NULL, &x, &tv));
    say("s %d", FD_ISSET(s, &x) != 0);
    close_both(c, s);
}

SCENARIO(select_listener_and_connections, TCP_ONLY)
{
    struct addr a;
    int l = listener(AF_INET, 8, &a), top = l;
    fd_set all;
    FD_ZERO(&all);
    FD_SET(l, &all);
    int c[3];
    for (int i = 0; i < 3; i++) {
        c[i] = connect_to(&a);
        SEND(c[i], "request", 0);
    }
    int served = 0;
    while (served < 3) {
        fd_set r = all;
        struct timeval tv = {8, 0};
        if (select(top + 1, &r, NULL, NULL, &tv) <= 0)
            die("select");
        for (int fd = 0; fd <= top; fd++) {
            if (!FD_ISSET(fd, &r))
                continue;
            if (fd == l) {
                int s = accept_one(l);
                FD_SET(s, &all);
                if (s > top)
                    top = s;
                continue;
            }
            char b[16];
            long n = recv(fd, b, sizeof b, 0);
            if (n <= 0)
                die("recv %ld", n);
            (void)!write(fd, "reply", 5);
            FD_CLR(fd, &all);
            close(fd);
            served++;
        }
    }
    for (int i = 0; i < 3; i++) {
        RECV(c[i], 100, MSG_WAITALL);
        CALL(close(c[i]));
    }
    CALL(close(l));
}

static void late_sender(struct task *t)
{
    settle();
    SEND(t->fd, "late", 0);
}

/* Ends at the event, well before the timeout. */
SCENARIO(poll_ends_early, SMC)
{
    PAIR(c, s);
    struct task t = {0};
    start(&t, "sender", late_sender, c);
    long since = now_ms();
    POLL(s, POLLIN, 8000);
    elapsed_say(since, 0, 5000);
    join(&t);
    RECV(s, 10, 0);
    start(&t, "sender", late_sender, c);
    POLL(s, POLLIN, -1);
    join(&t);
    RECV(s, 10, 0);
    start(&t, "sender", late_sender, c);
    struct pollfd p = {s, POLLIN, 0};
    CALL(ppoll(&p, 1, NULL, NULL));
    join(&t);
    close_both(c, s);
}

/* poll on one connection while data arrives on another one. */
SCENARIO(poll_does_not_mix, SMC)
{
    PAIR(c, s);
    int d, t;
    tcp_pair_of(AF_INET, &d, &t);
    SEND(c, "x", 0);
    await(s, POLLIN);
    POLL(t, POLLIN, 50);
    POLL(s, POLLIN, 50);
    SEND(d, "x", 0);
    POLL(t, POLLIN, 5000);
    close_both(c, s);
    POLL(t, POLLIN, 0);
    close_both(d, t);
}

/* Readable only from a number of bytes on, or at the end. */
SCENARIO(low_water_mark, SMC)
{
    PAIR(c, s);
    int low = 8;
    CALL(setsockopt(s, SOL_SOCKET, SO_RCVLOWAT, &low, sizeof low));
    SEND(c, "12345", 0);
    settle();
    POLL(s, POLLIN, 50);
    RECV(s, 3, MSG_DONTWAIT);
    SEND(c, "6789012", 0);
    POLL(s, POLLIN, 5000);
    RECV(s, 7, 0);
    POLL(s, POLLIN, 50);
    CALL(shutdown(c, SHUT_WR));
    POLL(s, POLLIN, 5000);
    RECV(s, 100, 0);
    RECV(s, 100, 0);
    close_both(c, s);
}
