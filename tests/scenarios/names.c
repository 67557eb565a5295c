/* Names, descriptor flags, socket options, ioctl, and calls on wrong descriptors. */
#include "scenarios.h"
#define THEME "names_and_options"

static void both_names(int fd)
{
    struct addr n = local_of(fd);
    name_say("own", &n.sa, sizeof n.ss, n.len);
    n = peer_of(fd);
    name_say("peer", &n.sa, sizeof n.ss, n.len);
}

static void names(int family)
{
    int c, s;
    tcp_pair_of(family, &c, &s);
    both_names(c);
    both_names(s);
    struct addr cl = local_of(c), cp = peer_of(c), sl = local_of(s), sp = peer_of(s);
    say("the ends agree: %d %d", port_of(&cl) == port_of(&sp), port_of(&cp) == port_of(&sl));
    struct addr cut = {.len = 5};
    memset(&cut.ss, 0x55, sizeof cut.ss);
    CALL(getsockname(c, &cut.sa, &cut.len));
    say("cut: length %u, byte after %#x", cut.len, ((unsigned char *)&cut)[5]);
    cut.len = 5;
    CALL(getpeername(c, &cut.sa, &cut.len));
    say("cut: length %u", cut.len);
    cut.len = (socklen_t)-1;
    CALL(getpeername(c, &cut.sa, &cut.len));
    CALL(close(s));
    await(c, POLLRDHUP);
    both_names(c);
    CALL(shutdown(c, SHUT_WR));
    settle();
    cut.len = sizeof cut.ss;
    CALL(getpeername(c, &cut.sa, &cut.len));
    CALL(close(c));
}

SCENARIO(names_ipv4, SMC)
{
    names(AF_INET);
}

SCENARIO(names_ipv6, SMC)
{
    names(AF_INET6);
}

SCENARIO(names_after_reset, SMC)
{
    PAIR(c, s);
    linger_zero(s);
    CALL(close(s));
    await_reset(c);
    struct addr n = {.len = sizeof n.ss};
    CALL(getpeername(c, &n.sa, &n.len));
    CALL(getsockname(c, &n.sa, &n.len));
    name_say("own", &n.sa, sizeof n.ss, n.len);
    CALL(close(c));
}

SCENARIO(descriptor_flags, SMC)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int c = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    FLAGS_OF(c);
    CALL(connect(c, &a.sa, a.len));
    int s = accept_one(l);
    FLAGS_OF(c);
    checkpoint(2);
    FLAGS_OF(c);
    FLAGS_OF(s);
    CALL(fcntl(s, F_SETFL, O_NONBLOCK));
    FLAGS_OF(s);
    RECV(s, 10, 0);
    CALL(fcntl(s, F_SETFL, 0));
    FLAGS_OF(s);
    int on = 1;
    CALL(ioctl(s, FIONBIO, &on));
    FLAGS_OF(s);
    RECV(s, 10, 0);
    on = 0;
    CALL(ioctl(s, FIONBIO, &on));
    FLAGS_OF(s);
    CALL(ioctl(s, FIOCLEX));
    FLAGS_OF(s);
    CALL(ioctl(s, FIONCLEX));
    CALL(fcntl(c, F_SETFD, 0));
    FLAGS_OF(s);
    FLAGS_OF(c);
    close_both(c, s);
    CALL(close(l));
}

SCENARIO(flags_set_before_the_move, SMC)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int c = connect_to(&a);
    CALL(fcntl(c, F_SETFL, O_NONBLOCK));
    CALL(fcntl(c, F_SETFD, FD_CLOEXEC));
    set_int(c, IPPROTO_TCP, TCP_NODELAY, 1);
    set_int(c, SOL_SOCKET, SO_RCVLOWAT, 1);
    int s = accept_one(l);
    checkpoint(2);
    FLAGS_OF(c);
    RECV(c, 10, 0);
    say("nodelay %d", get_int(c, IPPROTO_TCP, TCP_NODELAY));
    close_both(c, s);
    CALL(close(l));
}

SCENARIO(options_of_a_connection, SMC)
{
    PAIR(c, s);
    say("type %d domain %d protocol %d accepting %d", get_int(c, SOL_SOCKET, SO_TYPE),
        get_int(c, SOL_SOCKET, SO_DOMAIN), get_int(c, SOL_SOCKET, SO_PROTOCOL),
        get_int(s, SOL_SOCKET, SO_ACCEPTCONN));
    say("nodelay %d", get_int(c, IPPROTO_TCP, TCP_NODELAY));
    int on = 1;
    CALL(setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on));
    say("nodelay %d", get_int(c, IPPROTO_TCP, TCP_NODELAY));
    say("maxseg above 0: %d", get_int(c, IPPROTO_TCP, TCP_MAXSEG) > 0);
    CALL(setsockopt(c, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on));
    int idle = 77;
    CALL(setsockopt(c, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle));
    say("keepalive %d idle %d", get_int(c, SOL_SOCKET, SO_KEEPALIVE),
        get_int(c, IPPROTO_TCP, TCP_KEEPIDLE));
    CALL(setsockopt(c, IPPROTO_TCP, TCP_USER_TIMEOUT, &idle, sizeof idle));
    CALL(setsockopt(c, IPPROTO_TCP, TCP_CORK, &on, sizeof on));
    say("cork %d", get_int(c, IPPROTO_TCP, TCP_CORK));
    on = 0;
    CALL(setsockopt(c, IPPROTO_TCP, TCP_CORK, &on, sizeof on));
    CALL(setsockopt(c, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on));
    int tos = 0x10;
    CALL(setsockopt(c, IPPROTO_IP, IP_TOS, &tos, sizeof tos));
    say("tos %d priority %d", get_int(c, IPPROTO_IP, IP_TOS), get_int(c, SOL_SOCKET, SO_PRIORITY));
    char name[32] = "";
    socklen_t len = sizeof name;
    CALL(getsockopt(c, IPPROTO_TCP, TCP_CONGESTION, name, &len));
    say("congestion control named: %d", name[0] != 0);
    struct ucred cred = {1, 1, 1};
    len = sizeof cred;
    CALL(getsockopt(c, SOL_SOCKET, SO_PEERCRED, &cred, &len));
    say("no credentials on TCP: %d %d", (int)cred.pid, (int)cred.uid);
    CALL(setsockopt(c, SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
    close_both(c, s);
}

SCENARIO(options_buffer_sizes, SMC)
{
    PAIR(c, s);
    int size = 50000;
    say("sizes above 0: %d %d", get_int(c, SOL_SOCKET, SO_SNDBUF) > 0,
        get_int(c, SOL_SOCKET, SO_RCVBUF) > 0);
    CALL(setsockopt(c, SOL_SOCKET, SO_SNDBUF, &size, sizeof size));
    CALL(setsockopt(c, SOL_SOCKET, SO_RCVBUF, &size, sizeof size));
    say("doubled: %d %d", get_int(c, SOL_SOCKET, SO_SNDBUF), get_int(c, SOL_SOCKET, SO_RCVBUF));
    size = 1;
    CALL(setsockopt(s, SOL_SOCKET, SO_SNDBUF, &size, sizeof size));
    CALL(setsockopt(s, SOL_SOCKET, SO_RCVBUF, &size, sizeof size));
    say("minimum: %d %d", get_int(s, SOL_SOCKET, SO_SNDBUF), get_int(s, SOL_SOCKET, SO_RCVBUF));
    SEND(c, "still works", 0);
    await(s, POLLIN);
    RECV(s, 100, 0);
    close_both(c, s);
}

SCENARIO(options_wrong_arguments, SMC)
{
    PAIR(c, s);
    int v = 1;
    socklen_t len = sizeof v;
    CALL(getsockopt(c, SOL_SOCKET, 9999, &v, &len));
    CALL(getsockopt(c, IPPROTO_TCP, 9999, &v, &len));
    CALL(getsockopt(c, 4242, 1, &v, &len));
    CALL(setsockopt(c, SOL_SOCKET, 9999, &v, sizeof v));
    CALL(setsockopt(c, IPPROTO_TCP, 9999, &v, sizeof v));
    CALL(setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &v, 1));
    CALL(setsockopt(c, IPPROTO_TCP, TCP_NODELAY, (void *)8, sizeof v));
    CALL(setsockopt(c, SOL_SOCKET, SO_TYPE, &v, sizeof v));
    len = (socklen_t)-1;
    CALL(getsockopt(c, SOL_SOCKET, SO_ERROR, &v, &len));
    len = 1;
    v = 0x55555555;
    CALL(getsockopt(c, SOL_SOCKET, SO_TYPE, &v, &len));
    say("one byte: %#x length %u", (unsigned)v, len);
    len = 16;
    CALL(getsockopt(c, SOL_SOCKET, SO_TYPE, &v, &len));
    say("length %u", len);
    close_both(c, s);
}

static int tcp_state(int fd)
{
    struct tcp_info info;
    socklen_t len = sizeof info;
    memset(&info, 0, sizeof info);
    MUST(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len));
    return info.tcpi_state;
}

SCENARIO(tcp_info_states, SMC)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    say("listener %d", tcp_state(l));
    int c = socket(AF_INET, SOCK_STREAM, 0);
    say("new %d", tcp_state(c));
    MUST(connect(c, &a.sa, a.len));
    int s = accept_one(l);
    checkpoint(2);
    say("connected %d %d", tcp_state(c), tcp_state(s));
    CALL(shutdown(c, SHUT_WR));
    await(s, POLLRDHUP);
    settle();
    say("half closed %d %d", tcp_state(c), tcp_state(s));
    CALL(shutdown(s, SHUT_WR));
    await(c, POLLHUP);
    settle();
    say("closed %d %d", tcp_state(c), tcp_state(s));
    close_both(c, s);
    CALL(close(l));
}

static int ioctl_int(int fd, unsigned long request)
{
    int v = -1;
    if (ioctl(fd, request, &v) < 0)
        return -errno;
    return v;
}

SCENARIO(ioctl_queue_lengths, SMC)
{
    PAIR(c, s);
    say("nothing: in %d out %d", ioctl_int(s, FIONREAD), ioctl_int(c, SIOCOUTQ));
    SEND(c, "12345", 0);
    await(s, POLLIN);
    say("after 5: in %d", ioctl_int(s, FIONREAD));
    SEND(c, "678", 0);
    settle();
    say("after 3 more: in %d out %d", ioctl_int(s, FIONREAD), ioctl_int(c, SIOCOUTQ));
    RECV(s, 2, 0);
    say("after reading 2: in %d, other way %d", ioctl_int(s, FIONREAD), ioctl_int(c, FIONREAD));
    say("at mark: %d", ioctl_int(s, SIOCATMARK));
    CALL(shutdown(c, SHUT_WR));
    await(s, POLLRDHUP);
    say("after the end: in %d", ioctl_int(s, FIONREAD));
    RECV(s, 100, 0);
    say("after all: in %d", ioctl_int(s, FIONREAD));
    say("wrong: %d %d", ioctl_int(s, TCGETS), ioctl_int(s, 0x12345678));
    CALL(ioctl(s, FIONREAD, (int *)8));
    close_both(c, s);
}

/* A socket is not a file. */
SCENARIO(file_calls_on_a_connection, SMC)
{
    PAIR(c, s);
    char b[4] = "abc";
    struct stat st;
    CALL(fstat(c, &st));
    say("a socket: %d", S_ISSOCK(st.st_mode));
    CALL(lseek(c, 0, SEEK_SET));
    CALL(pread(c, b, 2, 0));
    CALL(pwrite(c, b, 2, 0));
    CALL(ftruncate(c, 0));
    CALL(fsync(c));
    CALL(isatty(c));
    CALL(fcntl(c, F_GETPIPE_SZ));
    char link[64] = "", path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", c);
    ssize_t n = readlink(path, link, sizeof link - 1);
    say("link to a socket: %d", n > 0 && strncmp(link, "socket:[", 8) == 0);
    close_both(c, s);
}

SCENARIO(wrong_descriptors, TCP_ONLY)
{
    char b[8] = "";
    struct iovec v = {b, sizeof b};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    struct addr a = loopback(AF_INET, 1);
    int none = 99, file = open("/dev/zero", O_RDWR), p[2];
    MUST(pipe(p));
    const int wrong[] = {none, -1, file, p[0]};
    for (int i = 0; i < 4; i++) {
        int fd = wrong[i];
        say("descriptor %d", i);
        CALL(recv(fd, b, 1, 0));
        CALL(recvfrom(fd, b, 1, 0, NULL, NULL));
        CALL(recvmsg(fd, &m, 0));
        CALL(send(fd, b, 1, 0));
        CALL(sendto(fd, b, 1, 0, &a.sa, a.len));
        CALL(sendmsg(fd, &m, 0));
        CALL(connect(fd, &a.sa, a.len));
        CALL(bind(fd, &a.sa, a.len));
        CALL(listen(fd, 1));
        CALL(accept(fd, NULL, NULL));
        CALL(shutdown(fd, SHUT_RD));
        CALL(getsockname(fd, &a.sa, &a.len));
        CALL(getpeername(fd, &a.sa, &a.len));
        CALL(getsockopt(fd, SOL_SOCKET, SO_TYPE, b, &a.len));
        CALL(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, b, 4));
    }
    CALL(read(none, b, 1));
    CALL(write(none, b, 1));
    CALL(readv(-1, &v, 1));
    CALL(writev(-1, &v, 1));
    CALL(close(none));
    CALL(close(-1));
    CALL(dup(none));
    CALL(dup2(none, 50));
    CALL(dup2(file, -1));
    CALL(dup2(file, 1 << 30));
    CALL(dup3(file, file, 0));
    CALL(fcntl(none, F_GETFL));
    CALL(ioctl(none, FIONREAD, b));
    CALL(fcntl(file, F_DUPFD, -1));
    CALL(close(INT_MAX));
    close_both(file, p[0]);
    CALL(close(p[1]));
}

SCENARIO(after_close, SMC)
{
    PAIR(c, s);
    char b[4];
    CALL(close(c));
    CALL(close(c));
    RECV(c, 4, 0);
    SEND(c, "x", 0);
    CALL(read(c, b, 4));
    CALL(write(c, b, 4));
    CALL(shutdown(c, SHUT_RDWR));
    FLAGS_OF(c);
    POLL(c, POLLIN, 0);
    CALL(close(s));
}

SCENARIO(udp_and_unix_untouched, TCP_ONLY)
{
    struct addr a = loopback(AF_INET, 0), from;
    int u = socket(AF_INET, SOCK_DGRAM, 0), w = socket(AF_INET, SOCK_DGRAM, 0), p[2];
    CALL(bind(u, &a.sa, a.len));
    a = local_of(u);
    CALL(sendto(w, "datagram", 8, 0, &a.sa, a.len));
    CALL(sendto(w, "", 0, 0, &a.sa, a.len));
    char b[32];
    from.len = sizeof from.ss;
    CALL(recvfrom(u, b, sizeof b, 0, &from.sa, &from.len));
    name_say("from", &from.sa, sizeof from.ss, from.len);
    CALL(recvfrom(u, b, sizeof b, 0, &from.sa, &from.len));
    CALL(connect(w, &a.sa, a.len));
    SEND(w, "connected", 0);
    RECV(u, 4, MSG_TRUNC);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, p));
    SEND(p[0], "unix", 0);
    RECV(p[1], 10, 0);
    CALL(close(p[0]));
    LOOK(p[1]);
    CALL(close(p[1]));
    close_both(u, w);
}
