/* Flags of send and recv, and the fields that recvmsg fills. */
#include "scenarios.h"
#define THEME "messages"

SCENARIO(peek, SMC)
{
    PAIR(c, s);
    RECV(s, 100, MSG_PEEK | MSG_DONTWAIT);
    SEND(c, "peekaboo", 0);
    await(s, POLLIN);
    RECV(s, 4, MSG_PEEK);
    RECV(s, 100, MSG_PEEK);
    LOOK(s);
    RECV(s, 4, 0);
    RECV(s, 100, MSG_PEEK | MSG_DONTWAIT);
    RECV(s, 100, 0);
    CALL(close(c));
    await(s, POLLRDHUP);
    RECV(s, 100, MSG_PEEK);
    RECV(s, 100, 0);
    CALL(close(s));
}

SCENARIO(peek_before_the_move, TCP_ONLY)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int c = connect_to(&a);
    SEND(c, "protocol detection", 0);
    int s = accept_one(l);
    await(s, POLLIN);
    RECV(s, 8, MSG_PEEK | MSG_WAITALL);
    RECV(s, 18, MSG_WAITALL);
    SEND(s, "ok", 0);
    await(c, POLLIN);
    RECV(c, 4, MSG_PEEK);
    RECV(c, 4, 0);
    close_both(c, s);
    CALL(close(l));
}

static void late_second_half(struct task *t)
{
    settle();
    SEND(t->fd, "second", 0);
    settle();
    SEND(t->fd, "third", 0);
}

SCENARIO(waitall, SMC)
{
    PAIR(c, s);
    struct task t = {0};
    SEND(c, "first", 0);
    start(&t, "sender", late_second_half, c);
    RECV(s, 16, MSG_WAITALL);
    join(&t);
    SEND(c, "short", 0);
    CALL(shutdown(c, SHUT_WR));
    RECV(s, 100, MSG_WAITALL);
    RECV(s, 100, MSG_WAITALL);
    close_both(c, s);
}

SCENARIO(waitall_dontwait, SMC)
{
    PAIR(c, s);
    SEND(c, "some", 0);
    await(s, POLLIN);
    RECV(s, 100, MSG_WAITALL | MSG_DONTWAIT);
    RECV(s, 100, MSG_WAITALL | MSG_DONTWAIT);
    SEND(c, "more", 0);
    await(s, POLLIN);
    nonblock(s);
    RECV(s, 100, MSG_WAITALL);
    RECV(s, 100, MSG_WAITALL);
    close_both(c, s);
}

SCENARIO(waitall_peek, SMC)
{
    PAIR(c, s);
    struct task t = {0};
    SEND(c, "first", 0);
    start(&t, "sender", late_second_half, c);
    RECV(s, 16, MSG_WAITALL | MSG_PEEK);
    join(&t);
    RECV(s, 100, 0);
    close_both(c, s);
}

SCENARIO(dontwait, SMC)
{
    PAIR(c, s);
    RECV(s, 100, MSG_DONTWAIT);
    FLAGS_OF(s);
    SEND(c, "x", MSG_DONTWAIT);
    await(s, POLLIN);
    RECV(s, 100, MSG_DONTWAIT);
    uint64_t n = fill(c, 0);
    /* TCP may still find room for some. */
    char big[16384];
    ssize_t k;
    do {
        pattern(big, n, sizeof big);
        k = send(c, big, sizeof big, MSG_DONTWAIT);
        if (k > 0)
            n += (uint64_t)k;
    } while (k > 0);
    say("send to a full socket: %s", errno_name(errno));
    say("intact: %d", drain(s, 0, n));
    close_both(c, s);
}

SCENARIO(truncating_receive, SMC)
{
    PAIR(c, s);
    char b[4] = "";
    SEND(c, "thrown away, kept", 0);
    await(s, POLLIN);
    CALL(recv(s, NULL, 5, MSG_TRUNC | MSG_PEEK));
    CALL(recv(s, NULL, 7, MSG_TRUNC));
    CALL(recv(s, b, 4, MSG_TRUNC));
    say("untouched: %d", b[0] == 0);
    RECV(s, 100, 0);
    CALL(recv(s, NULL, 7, MSG_TRUNC | MSG_DONTWAIT));
    close_both(c, s);
}

SCENARIO(more, SMC)
{
    PAIR(c, s);
    SEND(c, "head ", MSG_MORE);
    SEND(c, "body ", MSG_MORE);
    SEND(c, "tail", 0);
    RECV(s, 14, MSG_WAITALL);
    set_int(c, IPPROTO_TCP, TCP_CORK, 1);
    SEND(c, "corked ", 0);
    SEND(c, "twice", 0);
    set_int(c, IPPROTO_TCP, TCP_CORK, 0);
    RECV(s, 12, MSG_WAITALL);
    SEND(c, "left for close", MSG_MORE);
    CALL(close(c));
    RECV(s, 100, MSG_WAITALL);
    CALL(close(s));
}

SCENARIO(odd_flags, SMC)
{
    PAIR(c, s);
    RECV(c, 10, MSG_ERRQUEUE);
    RECV(c, 10, MSG_ERRQUEUE | MSG_DONTWAIT);
    SEND(c, "a", MSG_DONTROUTE);
    SEND(c, "b", MSG_CONFIRM);
    SEND(c, "c", MSG_EOR);
    SEND(c, "d", 0x400000);
    settle();
    RECV(s, 10, MSG_CMSG_CLOEXEC);
    SEND(s, "back", MSG_NOSIGNAL | MSG_DONTWAIT);
    await(c, POLLIN);
    RECV(c, 10, MSG_NOSIGNAL);
    close_both(c, s);
}

static void recvmsg_say(int fd, struct msghdr *m, int flags, const char *label)
{
    errno = 0;
    ssize_t n = recvmsg(fd, m, flags);
    say("%s: recvmsg = %zd %s, flags %#x, namelen %u, controllen %zu", label, n,
        n < 0 ? errno_name(errno) : show(m->msg_iov->iov_base,
                                         n < (ssize_t)m->msg_iov->iov_len
                                             ? n
                                             : (ssize_t)m->msg_iov->iov_len),
        (unsigned)m->msg_flags, m->msg_namelen, m->msg_controllen);
}

SCENARIO(recvmsg_fields, SMC)
{
    PAIR(c, s);
    char b[16] = "", control[64], name[32];
    struct iovec v = {b, sizeof b};
    struct msghdr m = {.msg_iov = &v,
                       .msg_iovlen = 1,
                       .msg_name = name,
                       .msg_namelen = sizeof name,
                       .msg_control = control,
                       .msg_controllen = sizeof control,
                       .msg_flags = 0x5555};
    struct msghdr fresh = m;
    SEND(c, "0123456789abcdefghij", 0);
    await(s, POLLIN);
    recvmsg_say(s, &m, MSG_PEEK, "peek");
    m = fresh;
    recvmsg_say(s, &m, MSG_TRUNC | MSG_PEEK, "trunc peek");
    m = fresh;
    recvmsg_say(s, &m, 0, "plain");
    m = fresh;
    recvmsg_say(s, &m, MSG_DONTWAIT, "rest");
    m = fresh;
    recvmsg_say(s, &m, MSG_DONTWAIT, "nothing");
    m = fresh;
    recvmsg_say(s, &m, MSG_ERRQUEUE, "error queue");
    CALL(shutdown(c, SHUT_WR));
    await(s, POLLRDHUP);
    m = fresh;
    recvmsg_say(s, &m, 0, "end");
    m = fresh;
    recvmsg_say(s, &m, MSG_CMSG_CLOEXEC, "end, cloexec");
    close_both(c, s);
}

SCENARIO(recvfrom_gives_no_address, SMC)
{
    PAIR(c, s);
    char b[16];
    struct addr from = {.len = sizeof from.ss};
    memset(&from.ss, 0x55, sizeof from.ss);
    SEND(c, "hello", 0);
    await(s, POLLIN);
    CALL(recvfrom(s, b, sizeof b, 0, &from.sa, &from.len));
    say("length %u, first byte %#x", from.len, *(unsigned char *)&from);
    SEND(c, "again", 0);
    await(s, POLLIN);
    CALL(recvfrom(s, b, sizeof b, 0, NULL, &from.len));
    CALL(recvfrom(s, b, sizeof b, MSG_DONTWAIT, &from.sa, &from.len));
    SEND(c, "once more", 0);
    await(s, POLLIN);
    from.len = (socklen_t)-1;
    CALL(recvfrom(s, b, sizeof b, 0, &from.sa, &from.len));
    RECV(s, 100, MSG_DONTWAIT);
    close_both(c, s);
}

SCENARIO(sendto_with_address, SMC)
{
    PAIR(c, s);
    struct addr a = loopback(AF_INET, 9);
    CALL(sendto(c, "ignored", 7, 0, &a.sa, a.len));
    CALL(sendto(c, "x", 1, 0, &a.sa, sizeof a.ss + 1));
    CALL(sendto(c, "x", 1, 0, (struct sockaddr *)8, a.len));
    CALL(sendto(c, "none", 4, 0, NULL, 0));
    struct iovec v = {"msg", 3};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_name = &a.sa, .msg_namelen = a.len};
    CALL(sendmsg(c, &m, 0));
    RECV(s, 14, MSG_WAITALL);
    int unconnected = socket(AF_INET, SOCK_STREAM, 0);
    CALL(sendto(unconnected, "x", 1, MSG_NOSIGNAL, &a.sa, a.len));
    close_both(c, s);
    CALL(close(unconnected));
}

SCENARIO(sendmsg_control, SMC)
{
    PAIR(c, s);
    struct iovec v = {"x", 1};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } u;
    struct msghdr m = {.msg_iov = &v,
                       .msg_iovlen = 1,
                       .msg_control = u.bytes,
                       .msg_controllen = sizeof u.bytes};
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(h), &s, sizeof s);
    /* Rights over TCP: no descriptor arrives, whatever the call says. */
    CALL(sendmsg(c, &m, 0));
    h->cmsg_len = 3;
    CALL(sendmsg(c, &m, 0));
    h->cmsg_len = CMSG_LEN(sizeof(int));
    h->cmsg_type = 9999;
    CALL(sendmsg(c, &m, 0));
    m.msg_control = (void *)8;
    CALL(sendmsg(c, &m, 0));
    m.msg_control = NULL;
    m.msg_controllen = 0;
    CALL(sendmsg(c, &m, 0));
    settle();
    RECV(s, 10, 0);
    close_both(c, s);
}
