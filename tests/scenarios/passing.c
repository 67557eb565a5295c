/* Descriptors handed over by SCM_RIGHTS, and processes that are killed. */
#include "scenarios.h"
#define THEME "passing_and_killing"

static void send_fd(int through, int fd)
{
    struct iovec v = {"f", 1};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } u;
    memset(&u, 0, sizeof u);
    struct msghdr m = {.msg_iov = &v,
                       .msg_iovlen = 1,
                       .msg_control = u.bytes,
                       .msg_controllen = sizeof u.bytes};
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(h), &fd, sizeof fd);
    CALL(sendmsg(through, &m, 0));
}

static int recv_fd(int through, int flags)
{
    char b[4];
    struct iovec v = {b, sizeof b};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } u;
    struct msghdr m = {.msg_iov = &v,
                       .msg_iovlen = 1,
                       .msg_control = u.bytes,
                       .msg_controllen = sizeof u.bytes};
    CALL(recvmsg(through, &m, flags));
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    if (!h || h->cmsg_type != SCM_RIGHTS)
        die("no descriptor came");
    say("controllen %zu flags %#x", m.msg_controllen, (unsigned)m.msg_flags);
    int fd;
    memcpy(&fd, CMSG_DATA(h), sizeof fd);
    return fd;
}

SCENARIO(pass_a_listener, TCP_ONLY)
{
    int u[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, u));
    struct addr a;
    pid_t pid = fork_child();
    if (pid == 0) {
        int l = recv_fd(u[1], 0);
        FLAGS_OF(l);
        int s = accept_one(l);
        RECV(s, 100, MSG_WAITALL);
        SEND(s, "by the heir", 0);
        close_both(s, l);
        return;
    }
    int l = listener(AF_INET, 5, &a);
    send_fd(u[0], l);
    CALL(close(l));
    int c = connect_to(&a);
    SEND(c, "hello", 0);
    CALL(shutdown(c, SHUT_WR));
    RECV(c, 100, MSG_WAITALL);
    reap(pid);
    close_both(u[0], u[1]);
    CALL(close(c));
}

/* The process that accepts hands the connection to a worker. */
SCENARIO(pass_a_connection, SMC)
{
    int u[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, u));
    pid_t pid = fork_child();
    if (pid == 0) {
        int s = recv_fd(u[1], MSG_CMSG_CLOEXEC);
        FLAGS_OF(s);
        RECV(s, 100, MSG_WAITALL);
        SEND(s, "by the worker", 0);
        CALL(close(s));
        return;
    }
    PAIR(c, s);
    send_fd(u[0], s);
    CALL(close(s));
    SEND(c, "hello worker", 0);
    CALL(shutdown(c, SHUT_WR));
    RECV(c, 100, 0);
    RECV(c, 100, 0);
    reap(pid);
    close_both(u[0], u[1]);
    CALL(close(c));
}

/* Two at once, by sendmmsg. */
SCENARIO(pass_two_connections, SMC)
{
    int u[2];
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, u));
    pid_t pid = fork_child();
    if (pid == 0) {
        for (int i = 0; i < 2; i++) {
            int s = recv_fd(u[1], 0);
            RECV(s, 5, MSG_WAITALL);
            SEND(s, "answer", 0);
            CALL(close(s));
        }
        return;
    }
    PAIR(c, s);
    PAIR(d, t);
    int passed[] = {s, t};
    struct iovec v = {"f", 1};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control[2];
    struct mmsghdr m[3];
    memset(m, 0, sizeof m);
    for (int i = 0; i < 2; i++) {
        memset(&control[i], 0, sizeof control[i]);
        m[i].msg_hdr = (struct msghdr){.msg_iov = &v,
                                       .msg_iovlen = 1,
                                       .msg_control = control[i].bytes,
                                       .msg_controllen = sizeof control[i].bytes};
        struct cmsghdr *h = CMSG_FIRSTHDR(&m[i].msg_hdr);
        h->cmsg_level = SOL_SOCKET;
        h->cmsg_type = SCM_RIGHTS;
        h->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(h), &passed[i], sizeof(int));
    }
    m[2].msg_hdr = (struct msghdr){.msg_iov = &v, .msg_iovlen = 1};
    SEND(c, "first", 0);
    SEND(d, "other", 0);
    CALL(sendmmsg(u[0], m, 3, 0));
    say("lengths %u %u %u", m[0].msg_len, m[1].msg_len, m[2].msg_len);
    close_both(s, t);
    RECV(c, 6, MSG_WAITALL);
    RECV(d, 6, MSG_WAITALL);
    reap(pid);
    close_both(u[0], u[1]);
    close_both(c, d);
}

/* Used on both sides of the hand-over, with data left unread. */
SCENARIO(pass_a_used_connection, SMC)
{
    int u[2];
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, u));
    pid_t pid = fork_child();
    if (pid == 0) {
        int s = recv_fd(u[1], 0);
        RECV(s, 100, 0);
        SEND(s, "worker", 0);
        RECV(s, 100, 0);
        CALL(close(s));
        return;
    }
    PAIR(c, s);
    SEND(c, "for main", 0);
    await(s, POLLIN);
    RECV(s, 100, 0);
    SEND(c, "for the worker", 0);
    await(s, POLLIN);
    send_fd(u[0], s);
    CALL(close(s));
    await(c, POLLIN);
    RECV(c, 100, 0);
    CALL(close(c));
    reap(pid);
    close_both(u[0], u[1]);
}

SCENARIO(pass_to_oneself, SMC)
{
    int u[2];
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, u));
    PAIR(c, s);
    send_fd(u[0], s);
    CALL(close(s));
    settle();
    LOOK(c);
    int t = recv_fd(u[1], 0);
    SEND(c, "round trip", 0);
    await(t, POLLIN);
    RECV(t, 100, 0);
    CALL(close(t));
    await(c, POLLRDHUP);
    RECV(c, 100, 0);
    close_both(u[0], u[1]);
    CALL(close(c));
}

/* In flight when the channel closes: the last reference goes with it. */
SCENARIO(pass_to_nobody, SMC)
{
    int u[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, u));
    PAIR(c, s);
    send_fd(u[0], s);
    CALL(close(s));
    settle();
    LOOK(c);
    close_both(u[0], u[1]);
    await(c, POLLRDHUP);
    RECV(c, 100, 0);
    CALL(close(c));
}

/* ---- killed ---- */

static void pause_forever(void)
{
    tell();
    for (;;)
        pause();
}

SCENARIO(killed_with_nothing_unread, SMC)
{
    int fd;
    pid_t pid = fork_pair(&fd);
    if (pid == 0)
        pause_forever();
    hear();
    kill(pid, SIGKILL);
    reap(pid);
    await(fd, POLLRDHUP);
    LOOK(fd);
    RECV(fd, 100, 0);
    SEND(fd, "x", 0);
    await_reset(fd);
    LOOK(fd);
    SEND(fd, "x", 0);
    CALL(close(fd));
}

SCENARIO(killed_with_data_sent, SMC)
{
    int fd;
    pid_t pid = fork_pair(&fd);
    if (pid == 0) {
        SEND(fd, "last words", 0);
        pause_forever();
    }
    hear();
    await(fd, POLLIN);
    kill(pid, SIGKILL);
    reap(pid);
    await(fd, POLLRDHUP);
    LOOK(fd);
    RECV(fd, 4, 0);
    RECV(fd, 100, 0);
    RECV(fd, 100, 0);
    CALL(close(fd));
}

SCENARIO(killed_with_data_unread, SMC)
{
    int fd;
    pid_t pid = fork_pair(&fd);
    if (pid == 0)
        pause_forever();
    hear();
    SEND(fd, "never read", 0);
    settle();
    kill(pid, SIGKILL);
    reap(pid);
    await_reset(fd);
    LOOK(fd);
    RECV(fd, 100, 0);
    RECV(fd, 100, 0);
    SEND(fd, "x", MSG_NOSIGNAL);
    CALL(close(fd));
}

static void killer(struct task *t)
{
    await_process_blocked(getpid());
    settle();
    kill((pid_t)t->value, SIGKILL);
}

SCENARIO(killed_while_peer_receives, SMC)
{
    int fd;
    pid_t pid = fork_pair(&fd);
    if (pid == 0)
        pause_forever();
    hear();
    struct task t = {.value = pid};
    start(&t, "killer", killer, fd);
    RECV(fd, 100, 0);
    join(&t);
    reap(pid);
    LOOK(fd);
    CALL(close(fd));
}

SCENARIO(killed_while_peer_sends, SMC)
{
    int fd;
    pid_t pid = fork_pair(&fd);
    if (pid == 0)
        pause_forever();
    hear();
    uint64_t n = fill(fd, 0);
    struct task t = {.value = pid};
    start(&t, "killer", killer, fd);
    bool sent = send_all(fd, n, 1000000, 60000);
    say("all sent: %d %s", sent, errno_name(errno));
    join(&t);
    reap(pid);
    LOOK(fd);
    CALL(close(fd));
}

SCENARIO(killed_while_peer_polls, SMC)
{
    int fd;
    pid_t pid = fork_pair(&fd);
    if (pid == 0)
        pause_forever();
    hear();
    struct task t = {.value = pid};
    start(&t, "killer", killer, fd);
    POLL(fd, POLLIN | POLLRDHUP, 8000);
    join(&t);
    reap(pid);
    RECV(fd, 100, 0);
    CALL(close(fd));
}

SCENARIO(killed_while_receiving, SMC)
{
    int fd;
    pid_t pid = fork_pair(&fd);
    if (pid == 0) {
        char b[4];
        tell();
        recv(fd, b, 4, 0);
        return;
    }
    hear();
    await_process_blocked(pid);
    kill(pid, SIGKILL);
    reap(pid);
    await(fd, POLLRDHUP);
    RECV(fd, 100, 0);
    CALL(close(fd));
}

SCENARIO(killed_in_a_transfer, SMC)
{
    int fd;
    pid_t pid = fork_pair(&fd);
    if (pid == 0) {
        send_all(fd, 0, 1ull << 40, 30000);
        return;
    }
    say("received: %d", drain(fd, 0, 5000000));
    kill(pid, SIGKILL);
    reap(pid);
    /* What was sent may still be read, then the end. */
    say("rest intact and then the end: %d", drain_to_eof(fd, 5000000) >= 0);
    RECV(fd, 100, 0);
    CALL(close(fd));
}

SCENARIO(stopped_and_continued, SMC)
{
    int fd;
    pid_t pid = fork_pair(&fd);
    if (pid == 0) {
        tell();
        RECV(fd, 100, 0);
        SEND(fd, "after the pause", 0);
        CALL(close(fd));
        return;
    }
    hear();
    await_process_blocked(pid);
    kill(pid, SIGSTOP);
    settle();
    SEND(fd, "while stopped", 0);
    POLL(fd, POLLIN, 100);
    kill(pid, SIGCONT);
    POLL(fd, POLLIN, 5000);
    RECV(fd, 100, 0);
    reap(pid);
    CALL(close(fd));
}

SCENARIO(exit_without_close, SMC)
{
    int fd;
    pid_t pid = fork_pair(&fd);
    if (pid == 0) {
        SEND(fd, "and then exit", 0);
        hear();
        exit(3);
    }
    RECV(fd, 100, 0);
    tell();
    RECV(fd, 100, 0);
    reap(pid);
    LOOK(fd);
    CALL(close(fd));
}
