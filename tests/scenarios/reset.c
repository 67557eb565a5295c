/* Resets, and the order of data, error and end of file. */
#include "scenarios.h"
#define THEME "reset"

SCENARIO(reset_by_linger_zero, SMC)
{
    PAIR(c, s);
    linger_zero(s);
    CALL(close(s));
    await_reset(c);
    LOOK(c);
    RECV(c, 100, 0);
    LOOK(c);
    RECV(c, 100, 0);
    SEND(c, "x", 0);
    CALL(close(c));
}

SCENARIO(reset_then_send_first, SMC)
{
    PAIR(c, s);
    linger_zero(c);
    CALL(close(c));
    await_reset(s);
    SEND(s, "x", 0);
    SEND(s, "x", 0);
    RECV(s, 100, 0);
    LOOK(s);
    CALL(close(s));
}

SCENARIO(reset_then_so_error, SMC)
{
    PAIR(c, s);
    linger_zero(s);
    CALL(close(s));
    await_reset(c);
    SO_ERROR_OF(c);
    SO_ERROR_OF(c);
    LOOK(c);
    RECV(c, 100, 0);
    SEND(c, "x", MSG_NOSIGNAL);
    CALL(close(c));
}

SCENARIO(reset_with_data_pending, SMC)
{
    PAIR(c, s);
    SEND(s, "delivered before", 0);
    await(c, POLLIN);
    linger_zero(s);
    CALL(close(s));
    await_reset(c);
    LOOK(c);
    RECV(c, 9, 0);
    RECV(c, 100, 0);
    RECV(c, 100, 0);
    RECV(c, 100, 0);
    CALL(close(c));
}

SCENARIO(close_with_unread_data, SMC)
{
    PAIR(c, s);
    SEND(c, "never read", 0);
    await(s, POLLIN);
    CALL(close(s));
    await_reset(c);
    LOOK(c);
    RECV(c, 100, 0);
    RECV(c, 100, 0);
    CALL(close(c));
}

SCENARIO(close_with_part_unread, SMC)
{
    PAIR(c, s);
    SEND(c, "partly read", 0);
    await(s, POLLIN);
    RECV(s, 4, 0);
    SEND(s, "my own data", 0);
    await(c, POLLIN);
    CALL(close(s));
    await_reset(c);
    LOOK(c);
    RECV(c, 100, 0);
    RECV(c, 100, 0);
    RECV(c, 100, 0);
    CALL(close(c));
}

SCENARIO(close_all_read, SMC)
{
    PAIR(c, s);
    SEND(c, "read", 0);
    await(s, POLLIN);
    RECV(s, 100, 0);
    CALL(close(s));
    await(c, POLLRDHUP);
    LOOK(c);
    RECV(c, 100, 0);
    CALL(close(c));
}

SCENARIO(data_before_eof, SMC)
{
    PAIR(c, s);
    SEND(s, "first ", 0);
    SEND(s, "second", 0);
    CALL(close(s));
    await(c, POLLRDHUP);
    LOOK(c);
    RECV(c, 5, 0);
    LOOK(c);
    RECV(c, 100, 0);
    LOOK(c);
    RECV(c, 100, 0);
    RECV(c, 100, 0);
    CALL(close(c));
}

SCENARIO(write_after_peer_closed, SMC)
{
    PAIR(c, s);
    CALL(close(s));
    await(c, POLLRDHUP);
    SEND(c, "accepted by TCP", 0);
    await_reset(c);
    LOOK(c);
    SEND(c, "refused", 0);
    SEND(c, "quietly", MSG_NOSIGNAL);
    RECV(c, 100, 0);
    LOOK(c);
    CALL(close(c));
}

SCENARIO(write_after_peer_closed_read_first, SMC)
{
    PAIR(c, s);
    SEND(s, "bye", 0);
    CALL(close(s));
    await(c, POLLRDHUP);
    SEND(c, "accepted by TCP", 0);
    await_reset(c);
    LOOK(c);
    RECV(c, 100, 0);
    RECV(c, 100, 0);
    SO_ERROR_OF(c);
    SEND(c, "refused", MSG_NOSIGNAL);
    CALL(close(c));
}

SCENARIO(send_after_peer_shut_read, SMC)
{
    PAIR(c, s);
    CALL(shutdown(s, SHUT_RD));
    settle();
    SEND(c, "TCP takes it", 0);
    SEND(c, "and more", 0);
    settle();
    LOOK(c);
    CALL(close(s));
    settle();
    LOOK(c);
    RECV(c, 100, MSG_DONTWAIT);
    CALL(close(c));
}

SCENARIO(sigpipe_kills_by_default, SMC)
{
    PAIR(c, s);
    CALL(shutdown(c, SHUT_WR));
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGPIPE, SIG_DFL);
        send(c, "x", 1, 0);
        _exit(0);
    }
    reap(pid);
    pid = fork();
    if (pid == 0) {
        signal(SIGPIPE, SIG_IGN);
        ssize_t n = write(c, "x", 1);
        _exit(n == -1 && errno == EPIPE ? 7 : 0);
    }
    reap(pid);
    close_both(c, s);
}

SCENARIO(linger_with_time, SMC)
{
    PAIR(c, s);
    struct linger l = {1, 5};
    CALL(setsockopt(c, SOL_SOCKET, SO_LINGER, &l, sizeof l));
    SEND(c, "lingering", 0);
    await(s, POLLIN);
    long t = now_ms();
    CALL(close(c));
    elapsed_say(t, 0, 4000);
    await(s, POLLRDHUP);
    RECV(s, 100, 0);
    RECV(s, 100, 0);
    CALL(close(s));
}

SCENARIO(linger_value_read_back, SMC)
{
    PAIR(c, s);
    struct linger l = {1, 7};
    socklen_t len = sizeof l;
    CALL(setsockopt(c, SOL_SOCKET, SO_LINGER, &l, sizeof l));
    memset(&l, 0, sizeof l);
    CALL(getsockopt(c, SOL_SOCKET, SO_LINGER, &l, &len));
    say("linger %d %d length %u", l.l_onoff, l.l_linger, len);
    CALL(setsockopt(c, SOL_SOCKET, SO_LINGER, &l, 4));
    l.l_onoff = 0;
    CALL(setsockopt(c, SOL_SOCKET, SO_LINGER, &l, sizeof l));
    close_both(c, s);
}

SCENARIO(reset_seen_once_by_two_processes, SMC)
{
    int fd;
    pid_t pid = fork_pair(&fd);
    if (pid == 0) {
        linger_zero(fd);
        hear();
        CALL(close(fd));
        return;
    }
    tell();
    await_reset(fd);
    LOOK(fd);
    RECV(fd, 100, 0);
    RECV(fd, 100, 0);
    CALL(close(fd));
    reap(pid);
}

SCENARIO(reset_before_accept, TCP_ONLY)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int c = connect_to(&a);
    await(l, POLLIN);
    linger_zero(c);
    CALL(close(c));
    settle();
    LOOK(l);
    int s = (int)CALL(accept(l, NULL, NULL));
    LOOK(s);
    RECV(s, 100, 0);
    RECV(s, 100, 0);
    close_both(s, l);
}

SCENARIO(listener_closed_before_accept, TCP_ONLY)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int c = connect_to(&a);
    await(l, POLLIN);
    CALL(close(l));
    await_reset(c);
    LOOK(c);
    RECV(c, 100, 0);
    RECV(c, 100, 0);
    CALL(close(c));
}
