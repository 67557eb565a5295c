/* Making connections, waiting, bulk data. */
#include "scenarios.h"

struct addr loopback(int family, int port)
{
    struct addr a;
    memset(&a, 0, sizeof a);
    a.sa.sa_family = (sa_family_t)family;
    if (family == AF_INET6) {
        a.in6.sin6_addr = in6addr_loopback;
        a.in6.sin6_port = htons((uint16_t)port);
        a.len = sizeof a.in6;
    } else {
        a.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        a.in.sin_port = htons((uint16_t)port);
        a.len = sizeof a.in;
    }
    return a;
}

struct addr local_of(int fd)
{
    struct addr a = {.len = sizeof a.ss};
    MUST(getsockname(fd, &a.sa, &a.len));
    return a;
}

struct addr peer_of(int fd)
{
    struct addr a = {.len = sizeof a.ss};
    MUST(getpeername(fd, &a.sa, &a.len));
    return a;
}

int port_of(const struct addr *a)
{
    return ntohs(a->sa.sa_family == AF_INET6 ? a->in6.sin6_port : a->in.sin_port);
}

int bound_socket(int family, struct addr *a)
{
    int fd = (int)MUST(socket(family, SOCK_STREAM, 0));
    set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    *a = loopback(family, 0);
    MUST(bind(fd, &a->sa, a->len));
    *a = local_of(fd);
    return fd;
}

int listener(int family, int backlog, struct addr *a)
{
    int fd = bound_socket(family, a);
    MUST(listen(fd, backlog));
    return fd;
}

/* Below the range from which connections elsewhere on the host take theirs. */
struct addr quiet_address(void)
{
    for (int port = 12000 + getpid() % 18000;; port++) {
        struct addr a = loopback(AF_INET, port);
        int probe = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
        int rc = bind(probe, &a.sa, a.len);
        close(probe);
        if (rc == 0)
            return a;
    }
}

int connect_to(const struct addr *a)
{
    int fd = (int)MUST(socket(a->sa.sa_family, SOCK_STREAM, 0));
    MUST(connect(fd, &a->sa, a->len));
    return fd;
}

int accept_one(int fd)
{
    return (int)MUST(accept(fd, NULL, NULL));
}

void tcp_pair_of(int family, int *client, int *server)
{
    struct addr a;
    int l = listener(family, 16, &a);
    *client = connect_to(&a);
    *server = accept_one(l);
    MUST(close(l));
    checkpoint(2);
}

void nonblock(int fd)
{
    MUST(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK));
}

void set_int(int fd, int level, int option, int value)
{
    MUST(setsockopt(fd, level, option, &value, sizeof value));
}

int get_int(int fd, int level, int option)
{
    int value = -1;
    socklen_t len = sizeof value;
    MUST(getsockopt(fd, level, option, &value, &len));
    return value;
}

void linger_zero(int fd)
{
    struct linger l = {1, 0};
    MUST(setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l));
}

void small_buffers(int a, int b)
{
    set_int(a, SOL_SOCKET, SO_SNDBUF, 32768);
    set_int(a, SOL_SOCKET, SO_RCVBUF, 32768);
    set_int(b, SOL_SOCKET, SO_SNDBUF, 32768);
    set_int(b, SOL_SOCKET, SO_RCVBUF, 32768);
}

/* ---- waiting ---- */

long now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

void nap(int milliseconds)
{
    struct timespec ts = {milliseconds / 1000, (milliseconds % 1000) * 1000000L};
    while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
        ;
}

void settle(void)
{
    nap(50);
}

void await(int fd, short events)
{
    long end = now_ms() + 8000;
    for (;;) {
        struct pollfd p = {fd, events, 0};
        int n = poll(&p, 1, 200);
        if (n > 0 && p.revents & events)
            return;
        if (now_ms() > end)
            die("no %s after 8 s, but %s", poll_names((unsigned short)events),
                poll_names((unsigned short)p.revents));
        /* Another event holds: do not spin on it. */
        if (n > 0)
            nap(2);
    }
}

void await_reset(int fd)
{
    await(fd, POLLERR);
    /* TCP sets the error first, and the hang-up a moment later. */
    await(fd, POLLHUP);
}

void elapsed_say(long since, long at_least, long at_most)
{
    long t = now_ms() - since;
    if (t >= at_least && t <= at_most)
        say("took between %ld and %ld ms", at_least, at_most);
    else
        say("took %ld ms, not between %ld and %ld", t, at_least, at_most);
}

/* ---- bulk data ---- */

void pattern(void *buf, uint64_t offset, size_t n)
{
    unsigned char *p = buf;
    for (size_t i = 0; i < n; i++) {
        uint64_t at = offset + i;
        /* Differs between neighbours and between 256-byte and 64 KiB blocks. */
        p[i] = (unsigned char)(at * 131 + (at >> 8) * 31 + (at >> 16) * 7);
    }
}

bool is_pattern(const void *buf, uint64_t offset, size_t n)
{
    unsigned char want[4096];
    const unsigned char *p = buf;
    for (size_t done = 0; done < n;) {
        size_t k = n - done < sizeof want ? n - done : sizeof want;
        pattern(want, offset + done, k);
        if (memcmp(want, p + done, k) != 0)
            return false;
        done += k;
    }
    return true;
}

uint64_t fill(int fd, uint64_t offset)
{
    char buf[16384];
    uint64_t total = 0;
    /* What is under way may still make room (TCP's window probe comes after
     * 200 ms), and TCP's send takes data for longer than its poll says so: full
     * is what stays full for both. */
    for (int refused = 0; refused < 8;) {
        pattern(buf, offset + total, sizeof buf);
        ssize_t k = send(fd, buf, sizeof buf, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (k > 0) {
            total += (uint64_t)k;
            refused = 0;
            continue;
        }
        if (k < 0 && errno == EINTR)
            continue;
        if (k == 0 || errno != EAGAIN)
            die("fill: send = %zd", k);
        struct pollfd p = {fd, POLLOUT, 0};
        refused = poll(&p, 1, 40) == 0 ? refused + 1 : 0;
    }
    return total;
}

bool drain(int fd, uint64_t offset, uint64_t n)
{
    char buf[16384];
    uint64_t done = 0;
    while (done < n) {
        size_t want = n - done < sizeof buf ? (size_t)(n - done) : sizeof buf;
        ssize_t k = recv(fd, buf, want, 0);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0 && errno == EAGAIN) {
            await(fd, POLLIN);
            continue;
        }
        if (k <= 0)
            return false;
        if (!is_pattern(buf, offset + done, (size_t)k))
            return false;
        done += (uint64_t)k;
    }
    return true;
}

bool send_all(int fd, uint64_t offset, uint64_t n, size_t chunk)
{
    char buf[65536];
    uint64_t done = 0;
    while (done < n) {
        size_t want = n - done < chunk ? (size_t)(n - done) : chunk;
        pattern(buf, offset + done, want);
        size_t at = 0;
        while (at < want) {
            ssize_t k = send(fd, buf + at, want - at, MSG_NOSIGNAL);
            if (k < 0 && errno == EINTR)
                continue;
            if (k < 0 && errno == EAGAIN) {
                await(fd, POLLOUT);
                continue;
            }
            if (k <= 0)
                return false;
            at += (size_t)k;
        }
        done += want;
    }
    return true;
}

int64_t drain_to_eof(int fd, uint64_t offset)
{
    char buf[16384];
    int64_t total = 0;
    for (;;) {
        ssize_t k = recv(fd, buf, sizeof buf, 0);
        if (k < 0 && errno == EINTR)
            continue;
        if (k == 0)
            return total;
        if (k < 0 || !is_pattern(buf, offset + (uint64_t)total, (size_t)k))
            return -1;
        total += k;
    }
}
