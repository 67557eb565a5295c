/* What SMC cannot serve: the program must get TCP's behaviour all the same. */
#include "scenarios.h"
#include <linux/errqueue.h>
#define THEME "fallback"

static void talk(int c, int s)
{
    SEND(c, "question", 0);
    await(s, POLLIN);
    RECV(s, 100, 0);
    SEND(s, "answer", 0);
    await(c, POLLIN);
    RECV(c, 100, 0);
    CALL(close(c));
    await(s, POLLRDHUP);
    LOOK(s);
    RECV(s, 10, 0);
    CALL(close(s));
}

SCENARIO(fast_open_by_sendto, TCP_ONLY)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int queue = 5;
    CALL(setsockopt(l, IPPROTO_TCP, TCP_FASTOPEN, &queue, sizeof queue));
    int c = socket(AF_INET, SOCK_STREAM, 0);
    CALL(sendto(c, "first", 5, MSG_FASTOPEN, &a.sa, a.len));
    int s = accept_one(l);
    RECV(s, 5, MSG_WAITALL);
    talk(c, s);
    CALL(close(l));
}

SCENARIO(fast_open_by_option, TCP_ONLY)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int on = 1;
    int c = socket(AF_INET, SOCK_STREAM, 0);
    CALL(setsockopt(c, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &on, sizeof on));
    MUST(connect(c, &a.sa, a.len));
    SEND(c, "first", 0);
    int s = accept_one(l);
    RECV(s, 5, MSG_WAITALL);
    talk(c, s);
    CALL(close(l));
}

SCENARIO(defer_accept, TCP_ONLY)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int seconds = 5;
    CALL(setsockopt(l, IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds, sizeof seconds));
    int c = connect_to(&a);
    POLL(l, POLLIN, 100);
    SEND(c, "now", 0);
    POLL(l, POLLIN, 5000);
    int s = accept_one(l);
    RECV(s, 3, MSG_WAITALL);
    talk(c, s);
    CALL(close(l));
}

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

SCENARIO(multipath, TCP_ONLY)
{
    struct addr a = loopback(AF_INET, 0);
    int l = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP);
    if (l < 0) {
        say("not in this kernel");
        return;
    }
    MUST(bind(l, &a.sa, a.len));
    MUST(listen(l, 5));
    a = local_of(l);
    int c = (int)MUST(socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP));
    MUST(connect(c, &a.sa, a.len));
    int s = accept_one(l);
    say("protocol %d", get_int(s, SOL_SOCKET, SO_PROTOCOL));
    SEND(c, "question", 0);
    await(s, POLLIN);
    RECV(s, 100, 0);
    close_both(c, s);
    CALL(close(l));
}

SCENARIO(upper_layer_protocol, TCP_ONLY)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int c = connect_to(&a), s = accept_one(l);
    CALL(setsockopt(c, IPPROTO_TCP, TCP_ULP, "nonesuch", 8));
    talk(c, s);
    CALL(close(l));
}

SCENARIO(signed_segments, TCP_ONLY)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    struct tcp_md5sig key = {.tcpm_keylen = 6};
    memcpy(key.tcpm_key, "secret", 6);
    struct addr any = loopback(AF_INET, 0);
    memcpy(&key.tcpm_addr, &any.ss, sizeof any.in);
    CALL(setsockopt(l, IPPROTO_TCP, TCP_MD5SIG, &key, sizeof key));
    int c = socket(AF_INET, SOCK_STREAM, 0);
    CALL(setsockopt(c, IPPROTO_TCP, TCP_MD5SIG, &key, sizeof key));
    CALL(connect(c, &a.sa, a.len));
    int s = accept_one(l);
    talk(c, s);
    CALL(close(l));
}

SCENARIO(zero_copy_send, TCP_ONLY)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int on = 1;
    int c = socket(AF_INET, SOCK_STREAM, 0);
    CALL(setsockopt(c, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof on));
    MUST(connect(c, &a.sa, a.len));
    int s = accept_one(l);
    static char big[40000];
    pattern(big, 0, sizeof big);
    CALL(send(c, big, sizeof big, MSG_ZEROCOPY));
    say("intact: %d", drain(s, 0, sizeof big));
    await(c, POLLERR);
    char control[128];
    struct msghdr m = {.msg_control = control, .msg_controllen = sizeof control};
    CALL(recvmsg(c, &m, MSG_ERRQUEUE));
    say("flags %#x, a notice came: %d", (unsigned)m.msg_flags, m.msg_controllen > 0);
    talk(c, s);
    CALL(close(l));
}

SCENARIO(peer_without_the_library, TCP_ONLY)
{
    int fd;
    pid_t pid = fork_child();
    struct addr a;
    if (pid == 0) {
        /* A new image without the library. */
        unsetenv("LD_PRELOAD");
        char port[16];
        snprintf(port, sizeof port, "%d", hear_int());
        execl("/proc/self/exe", "scenarios", "entry", "plain_client", port, "plain", NULL);
        _exit(9);
    }
    int l = listener(AF_INET, 5, &a);
    tell_int(port_of(&a));
    fd = accept_one(l);
    RECV(fd, 8, MSG_WAITALL);
    SEND(fd, "answer", 0);
    RECV(fd, 10, 0);
    LOOK(fd);
    reap(pid);
    close_both(fd, l);
}

ENTRY(plain_client)
{
    struct addr a = loopback(AF_INET, fd);
    int c = connect_to(&a);
    SEND(c, "question", 0);
    RECV(c, 100, 0);
    CALL(close(c));
}

SCENARIO(server_without_the_library, TCP_ONLY)
{
    /* The server's image has no library; the client speaks first or waits. */
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    pid_t pid = fork_child();
    if (pid == 0) {
        unsetenv("LD_PRELOAD");
        exec_entry("plain_server", l);
    }
    CALL(close(l));
    int c = connect_to(&a);
    RECV(c, 8, MSG_WAITALL);
    SEND(c, "question", 0);
    RECV(c, 6, MSG_WAITALL);
    CALL(shutdown(c, SHUT_WR));
    RECV(c, 10, 0);
    reap(pid);
    CALL(close(c));
}

ENTRY(plain_server)
{
    int s = accept_one(fd);
    SEND(s, "greeting", 0);
    RECV(s, 8, MSG_WAITALL);
    SEND(s, "answer", 0);
    RECV(s, 10, 0);
    close_both(s, fd);
}

/* A server that accepts, reads and writes by raw system calls: the library does
 * not see them, and the client must not wait for it. */
SCENARIO(raw_calls_on_a_listener, TCP_ONLY)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int c = connect_to(&a);
    int s = (int)MUST(syscall(SYS_accept4, l, NULL, NULL, 0));
    SEND(c, "question", 0);
    char b[16];
    say("%s", show(b, syscall(SYS_read, s, b, sizeof b)));
    syscall(SYS_write, s, "answer", 6);
    await(c, POLLIN);
    RECV(c, 100, 0);
    syscall(SYS_close, s);
    await(c, POLLRDHUP);
    RECV(c, 100, 0);
    close_both(c, l);
}
