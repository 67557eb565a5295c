/* Scattered calls with odd vectors, bad pointers and bad counts; the checked
 * variants that _FORTIFY_SOURCE makes of the plain ones. */
#include "scenarios.h"
#define THEME "iovecs"

static void *const BAD = (void *)8;

SCENARIO(readv_writev, SMC)
{
    PAIR(c, s);
    char x[3], y[1], z[20];
    struct iovec out[] = {{"", 0}, {"abc", 3}, {NULL, 0}, {"defgh", 5}, {"i", 1}};
    CALL(writev(c, out, 5));
    settle();
    struct iovec in[] = {{NULL, 0}, {x, sizeof x}, {y, sizeof y}, {NULL, 0}, {z, sizeof z}};
    long n = CALL(readv(s, in, 5));
    say("%s %s %s", show(x, 3), show(y, 1), show(z, n - 4));
    CALL(writev(c, out, 0));
    CALL(writev(c, out, 1));
    CALL(readv(s, in, 0));
    nonblock(s);
    CALL(readv(s, in, 5));
    CALL(readv(s, in, 1));
    close_both(c, s);
}

SCENARIO(iovec_counts, SMC)
{
    PAIR(c, s);
    static struct iovec v[1025];
    static char bytes[1025];
    pattern(bytes, 0, sizeof bytes);
    for (int i = 0; i < 1025; i++)
        v[i] = (struct iovec){bytes + i, 1};
    CALL(writev(c, v, 1024));
    CALL(writev(c, v, 1025));
    CALL(writev(c, v, -1));
    CALL(readv(s, v, 1025));
    CALL(readv(s, v, -1));
    say("whole: %d", drain(s, 0, 1024));
    struct msghdr m = {.msg_iov = v, .msg_iovlen = 1025};
    CALL(sendmsg(c, &m, 0));
    CALL(recvmsg(s, &m, MSG_DONTWAIT));
    m.msg_iovlen = 1024;
    CALL(sendmsg(c, &m, 0));
    settle();
    memset(bytes, 0, sizeof bytes);
    CALL(recvmsg(s, &m, MSG_WAITALL));
    say("whole: %d", is_pattern(bytes, 0, 1024));
    struct iovec huge[2] = {{bytes, SSIZE_MAX}, {bytes, SSIZE_MAX}};
    CALL(readv(s, huge, 2));
    huge[0].iov_len = (size_t)-1;
    CALL(readv(s, huge, 1));
    CALL(writev(c, huge, 1));
    close_both(c, s);
}

SCENARIO(bad_pointers_in_recv, SMC)
{
    PAIR(c, s);
    char b[8] = "";
    CALL(recv(s, BAD, 8, MSG_DONTWAIT));
    SEND(c, "survives", 0);
    await(s, POLLIN);
    CALL(recv(s, BAD, 8, 0));
    CALL(read(s, BAD, 8));
    CALL(recvfrom(s, BAD, 8, 0, NULL, NULL));
    CALL(recv(s, BAD, 0, 0));
    struct iovec v[2] = {{b, 4}, {BAD, 4}};
    CALL(readv(s, v, 2));
    CALL(readv(s, BAD, 2));
    CALL(recvmsg(s, BAD, 0));
    LOOK(s);
    RECV(s, 100, 0);
    close_both(c, s);
}

SCENARIO(bad_pointers_in_send, SMC)
{
    PAIR(c, s);
    CALL(send(c, BAD, 8, 0));
    CALL(write(c, BAD, 8));
    CALL(sendto(c, BAD, 8, 0, NULL, 0));
    CALL(send(c, BAD, 0, 0));
    struct iovec v[2] = {{"good", 4}, {BAD, 4}};
    CALL(writev(c, BAD, 2));
    CALL(sendmsg(c, BAD, 0));
    v[0] = (struct iovec){BAD, 4};
    CALL(writev(c, v, 1));
    settle();
    LOOK(s);
    SEND(c, "still fine", 0);
    await(s, POLLIN);
    RECV(s, 100, 0);
    close_both(c, s);
}

/* A buffer that ends at an unmapped page. */
SCENARIO(pointers_at_the_edge, SMC)
{
    PAIR(c, s);
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(mprotect(page + 4096, 4096, PROT_NONE));
    memcpy(page + 4090, "edges!", 6);
    CALL(send(c, page + 4090, 6, 0));
    await(s, POLLIN);
    memset(page + 4090, 0, 6);
    CALL(recv(s, page + 4090, 6, 0));
    say("%s", show(page + 4090, 6));
    /* Asked for more than there is room: fine while less arrives. */
    SEND(c, "1234", 0);
    await(s, POLLIN);
    CALL(recv(s, page + 4092, 4, MSG_PEEK));
    CALL(syscall(SYS_mprotect, page + 4096, 4096L, PROT_READ));
    CALL(recv(s, page + 4096, 4, 0));
    RECV(s, 100, 0);
    munmap(page, 8192);
    close_both(c, s);
}

SCENARIO(bad_pointers_elsewhere, SMC)
{
    PAIR(c, s);
    socklen_t len = 16;
    CALL(getsockname(c, BAD, &len));
    CALL(getsockname(c, (struct sockaddr *)&len, BAD));
    CALL(getpeername(c, BAD, &len));
    CALL(getsockopt(c, SOL_SOCKET, SO_ERROR, BAD, &len));
    CALL(getsockopt(c, SOL_SOCKET, SO_ERROR, &len, BAD));
    CALL(setsockopt(c, SOL_SOCKET, SO_KEEPALIVE, BAD, 4));
    CALL(poll(BAD, 1, 0));
    CALL(select(c + 1, BAD, NULL, NULL, NULL));
    int ep = epoll_create1(0);
    CALL(epoll_ctl(ep, EPOLL_CTL_ADD, c, BAD));
    struct epoll_event ev = {.events = EPOLLOUT};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, c, &ev));
    CALL(epoll_wait(ep, BAD, 1, 0));
    CALL(close(ep));
    close_both(c, s);
}

SCENARIO(sendmmsg_recvmmsg, SMC)
{
    PAIR(c, s);
    struct iovec v[3] = {{"one", 3}, {"two2", 4}, {"three", 5}};
    struct mmsghdr m[3];
    memset(m, 0, sizeof m);
    for (int i = 0; i < 3; i++) {
        m[i].msg_hdr.msg_iov = &v[i];
        m[i].msg_hdr.msg_iovlen = 1;
    }
    CALL(sendmmsg(c, m, 3, 0));
    say("lengths %u %u %u", m[0].msg_len, m[1].msg_len, m[2].msg_len);
    CALL(sendmmsg(c, m, 0, 0));
    settle();
    char b[4][5];
    struct iovec r[4];
    struct mmsghdr n[4];
    memset(n, 0, sizeof n);
    for (int i = 0; i < 4; i++) {
        r[i] = (struct iovec){b[i], sizeof b[i]};
        n[i].msg_hdr.msg_iov = &r[i];
        n[i].msg_hdr.msg_iovlen = 1;
    }
    CALL(recvmmsg(s, n, 4, MSG_DONTWAIT, NULL));
    for (int i = 0; i < 3; i++)
        say("%u %s flags %#x", n[i].msg_len, show(b[i], n[i].msg_len),
            (unsigned)n[i].msg_hdr.msg_flags);
    CALL(recvmmsg(s, n, 4, MSG_DONTWAIT, NULL));
    SEND(c, "1234567", 0);
    await(s, POLLIN);
    CALL(recvmmsg(s, n, 4, MSG_WAITFORONE, NULL));
    say("%u %u", n[0].msg_len, n[1].msg_len);
    struct timespec bad = {0, -1};
    CALL(recvmmsg(s, n, 4, 0, &bad));
    CALL(shutdown(c, SHUT_WR));
    await(s, POLLRDHUP);
    CALL(recvmmsg(s, n, 4, MSG_DONTWAIT, NULL));
    say("%u %u", n[0].msg_len, n[3].msg_len);
    CALL(shutdown(s, SHUT_WR));
    CALL(sendmmsg(s, m, 3, MSG_NOSIGNAL));
    close_both(c, s);
}

SCENARIO(preadv_variants, SMC)
{
    PAIR(c, s);
    char b[8];
    struct iovec v = {b, sizeof b}, w = {"offset -1", 9};
    CALL(preadv(s, &v, 1, 0));
    CALL(pwritev(c, &w, 1, 0));
    CALL(pwritev2(c, &w, 1, -1, 0));
    await(s, POLLIN);
    CALL(preadv2(s, &v, 1, -1, 0));
    say("%s", show(b, 8));
    CALL(preadv2(s, &v, 1, -1, RWF_NOWAIT));
    CALL(preadv2(s, &v, 1, -1, RWF_NOWAIT));
    close_both(c, s);
}

/* Sizes that the compiler cannot know make it call the checked variants. */
static size_t volatile_size(size_t n)
{
    volatile size_t v = n;
    return v;
}

SCENARIO(fortified_reads, SMC)
{
    PAIR(c, s);
    char b[32];
    struct addr from = {.len = sizeof from.ss};
    long n;
    SEND(c, "abcdefghijklmnopqrstuvwxyz", 0);
    await(s, POLLIN);
    n = CALL(read(s, b, volatile_size(5)));
    say("%s", show(b, n));
    n = CALL(recv(s, b, volatile_size(5), 0));
    say("%s", show(b, n));
    n = CALL(recvfrom(s, b, volatile_size(5), MSG_PEEK, &from.sa, &from.len));
    say("%s %u", show(b, n), from.len);
    n = CALL(recvfrom(s, b, volatile_size(32), 0, NULL, NULL));
    say("%s", show(b, n));
    CALL(recv(s, b, volatile_size(32), MSG_DONTWAIT));
    nonblock(s);
    CALL(read(s, b, volatile_size(32)));
    CALL(close(c));
    await(s, POLLRDHUP);
    CALL(read(s, b, volatile_size(32)));
    CALL(close(s));
}

SCENARIO(fortified_polls, SMC)
{
    PAIR(c, s);
    struct pollfd p[2] = {{c, POLLIN | POLLOUT, 0}, {s, POLLIN, 0}};
    SEND(c, "x", 0);
    await(s, POLLIN);
    CALL(poll(p, volatile_size(2), 0));
    say("%s %s", poll_names((unsigned short)p[0].revents), poll_names((unsigned short)p[1].revents));
    struct timespec zero = {0, 0};
    p[0].revents = p[1].revents = 0;
    CALL(ppoll(p, volatile_size(2), &zero, NULL));
    say("%s %s", poll_names((unsigned short)p[0].revents), poll_names((unsigned short)p[1].revents));
    fd_set r;
    FD_ZERO(&r);
    FD_SET((int)volatile_size((size_t)s), &r);
    struct timeval tv = {0, 0};
    CALL(select(s + 1, &r, NULL, NULL, &tv));
    say("%d", FD_ISSET((int)volatile_size((size_t)s), &r) != 0);
    close_both(c, s);
}
