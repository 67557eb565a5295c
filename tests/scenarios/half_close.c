/* Half close in every order, and what both ends see of it. */
#include "scenarios.h"
#define THEME "half_close"

SCENARIO(half_close_client_first, SMC)
{
    PAIR(c, s);
    SEND(c, "last words", 0);
    CALL(shutdown(c, SHUT_WR));
    await(s, POLLRDHUP);
    LOOK(c);
    LOOK(s);
    RECV(s, 100, 0);
    RECV(s, 100, 0);
    RECV(s, 100, 0);
    LOOK(s);
    SEND(s, "answer", 0);
    await(c, POLLIN);
    RECV(c, 100, 0);
    CALL(shutdown(s, SHUT_WR));
    await(c, POLLRDHUP);
    LOOK(c);
    LOOK(s);
    RECV(c, 100, 0);
    close_both(c, s);
}

SCENARIO(half_close_server_first, SMC)
{
    PAIR(c, s);
    CALL(shutdown(s, SHUT_WR));
    await(c, POLLRDHUP);
    LOOK(c);
    LOOK(s);
    RECV(c, 100, 0);
    SEND(c, "still here", 0);
    await(s, POLLIN);
    RECV(s, 100, 0);
    CALL(close(c));
    await(s, POLLIN);
    LOOK(s);
    RECV(s, 100, 0);
    CALL(close(s));
}

SCENARIO(half_close_both, SMC)
{
    PAIR(c, s);
    CALL(shutdown(s, SHUT_WR));
    CALL(shutdown(c, SHUT_WR));
    await(c, POLLHUP);
    await(s, POLLHUP);
    LOOK(c);
    LOOK(s);
    RECV(c, 100, 0);
    RECV(s, 100, 0);
    SEND(c, "x", 0);
    SEND(s, "x", MSG_NOSIGNAL);
    LOOK(c);
    close_both(c, s);
}

SCENARIO(half_close_many_sends_after, SMC)
{
    PAIR(c, s);
    CALL(shutdown(c, SHUT_WR));
    for (int i = 0; i < 5; i++) {
        char text[16];
        snprintf(text, sizeof text, "part %d", i);
        SEND(s, text, 0);
        await(c, POLLIN);
        RECV(c, 100, 0);
        LOOK(c);
    }
    RECV(s, 100, 0);
    CALL(close(s));
    await(c, POLLRDHUP);
    RECV(c, 100, 0);
    CALL(close(c));
}

SCENARIO(half_close_then_close, SMC)
{
    PAIR(c, s);
    CALL(shutdown(c, SHUT_WR));
    CALL(close(c));
    await(s, POLLRDHUP);
    LOOK(s);
    RECV(s, 100, 0);
    CALL(close(s));
}

SCENARIO(half_close_send_after_own, SMC)
{
    PAIR(c, s);
    CALL(shutdown(c, SHUT_WR));
    SEND(c, "x", 0);
    SEND(c, "x", MSG_NOSIGNAL);
    CALL(write(c, "x", 1));
    CALL(send(c, "", 0, 0));
    CALL(write(c, "", 0));
    LOOK(c);
    SO_ERROR_OF(c);
    close_both(c, s);
}

SCENARIO(half_close_twice, SMC)
{
    PAIR(c, s);
    CALL(shutdown(c, SHUT_WR));
    CALL(shutdown(c, SHUT_WR));
    CALL(shutdown(c, SHUT_RDWR));
    await(s, POLLRDHUP);
    LOOK(c);
    LOOK(s);
    CALL(shutdown(s, SHUT_WR));
    await(c, POLLHUP);
    settle();
    CALL(shutdown(c, SHUT_WR));
    CALL(shutdown(s, SHUT_WR));
    CALL(shutdown(s, SHUT_RD));
    close_both(c, s);
}

SCENARIO(shutdown_read, SMC)
{
    PAIR(c, s);
    CALL(shutdown(c, SHUT_RD));
    LOOK(c);
    LOOK(s);
    RECV(c, 100, 0);
    SEND(c, "the other way works", 0);
    await(s, POLLIN);
    RECV(s, 100, 0);
    /* TCP lets what arrives after SHUT_RD be read. */
    SEND(s, "late", 0);
    settle();
    LOOK(c);
    RECV(c, 100, MSG_DONTWAIT);
    RECV(c, 100, MSG_DONTWAIT);
    LOOK(s);
    CALL(close(s));
    await(c, POLLHUP | POLLRDHUP);
    CALL(close(c));
}

SCENARIO(shutdown_read_with_data, SMC)
{
    PAIR(c, s);
    SEND(s, "before", 0);
    await(c, POLLIN);
    CALL(shutdown(c, SHUT_RD));
    LOOK(c);
    RECV(c, 3, 0);
    RECV(c, 100, 0);
    RECV(c, 100, 0);
    close_both(c, s);
}

SCENARIO(shutdown_both_ways, SMC)
{
    PAIR(c, s);
    SEND(s, "unread", 0);
    await(c, POLLIN);
    CALL(shutdown(c, SHUT_RDWR));
    await(s, POLLRDHUP);
    LOOK(c);
    LOOK(s);
    RECV(c, 100, 0);
    RECV(c, 100, 0);
    SEND(c, "x", 0);
    RECV(s, 100, 0);
    LOOK(s);
    CALL(close(s));
    settle();
    LOOK(c);
    CALL(close(c));
}

SCENARIO(shutdown_wrong_arguments, SMC)
{
    PAIR(c, s);
    CALL(shutdown(c, 3));
    CALL(shutdown(c, -1));
    CALL(shutdown(c, 700));
    LOOK(c);
    int unconnected = socket(AF_INET, SOCK_STREAM, 0);
    CALL(shutdown(unconnected, SHUT_WR));
    CALL(shutdown(unconnected, SHUT_RD));
    CALL(shutdown(unconnected, SHUT_RDWR));
    LOOK(unconnected);
    CALL(close(unconnected));
    close_both(c, s);
}

SCENARIO(half_close_two_processes, SMC)
{
    int fd;
    pid_t pid = fork_pair(&fd);
    if (pid == 0) {
        SEND(fd, "question", 0);
        CALL(shutdown(fd, SHUT_WR));
        RECV(fd, 100, MSG_WAITALL);
        RECV(fd, 100, 0);
        LOOK(fd);
        CALL(close(fd));
        return;
    }
    RECV(fd, 100, MSG_WAITALL);
    RECV(fd, 100, 0);
    LOOK(fd);
    SEND(fd, "ans", 0);
    settle();
    SEND(fd, "wer", 0);
    CALL(close(fd));
    reap(pid);
}

SCENARIO(half_close_with_much_data, SMC)
{
    int fd;
    pid_t pid = fork_pair(&fd);
    enum { N = 2000000 };
    if (pid == 0) {
        say("sent %d", send_all(fd, 0, N, 60000));
        CALL(shutdown(fd, SHUT_WR));
        say("received %lld", (long long)drain_to_eof(fd, 5));
        CALL(close(fd));
        return;
    }
    /* The reader starts late: the end of file waits behind the data. */
    settle();
    say("received %lld", (long long)drain_to_eof(fd, 0));
    say("sent %d", send_all(fd, 5, N, 60000));
    CALL(close(fd));
    reap(pid);
}

/* The whole life of the client is over before the server accepts. */
SCENARIO(client_gone_before_accept, TCP_ONLY)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int c = connect_to(&a);
    SEND(c, "written early", 0);
    CALL(shutdown(c, SHUT_WR));
    CALL(close(c));
    int s = accept_one(l);
    await(s, POLLRDHUP);
    LOOK(s);
    RECV(s, 100, 0);
    RECV(s, 100, 0);
    SEND(s, "to nobody", 0);
    await_reset(s);
    LOOK(s);
    RECV(s, 100, 0);
    SEND(s, "again", 0);
    close_both(s, l);
}

SCENARIO(client_half_closes_before_accept, TCP_ONLY)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int c = connect_to(&a);
    SEND(c, "written early", 0);
    CALL(shutdown(c, SHUT_WR));
    LOOK(c);
    int s = accept_one(l);
    RECV(s, 100, MSG_WAITALL);
    SEND(s, "answer", 0);
    await(c, POLLIN);
    RECV(c, 100, 0);
    CALL(close(s));
    await(c, POLLRDHUP);
    RECV(c, 100, 0);
    LOOK(c);
    close_both(c, l);
}

SCENARIO(early_writes_travel, SMC)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int c = connect_to(&a);
    SEND(c, "one ", 0);
    SEND(c, "two ", 0);
    LOOK(c);
    int s = accept_one(l);
    SEND(c, "three", 0);
    /* WAITALL: the three may or may not have arrived in one. */
    RECV(s, 13, MSG_WAITALL);
    SEND(s, "all three", 0);
    await(c, POLLIN);
    RECV(c, 100, 0);
    checkpoint(2);
    SEND(c, "four", 0);
    await(s, POLLIN);
    RECV(s, 100, 0);
    close_both(c, s);
    CALL(close(l));
}
