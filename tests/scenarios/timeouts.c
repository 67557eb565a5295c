/* SO_RCVTIMEO, SO_SNDTIMEO, and the timeouts of the waiting calls. */
#include "scenarios.h"
#define THEME "timeouts"

static void set_timeout(int fd, int option, int ms)
{
    struct timeval tv = {ms / 1000, (ms % 1000) * 1000};
    MUST(setsockopt(fd, SOL_SOCKET, option, &tv, sizeof tv));
}

SCENARIO(receive_timeout, SMC)
{
    PAIR(c, s);
    set_timeout(c, SO_RCVTIMEO, 200);
    long t = now_ms();
    RECV(c, 10, 0);
    elapsed_say(t, 190, 2500);
    t = now_ms();
    char b[4];
    CALL(read(c, b, 4));
    elapsed_say(t, 190, 2500);
    SEND(s, "in time", 0);
    await(c, POLLIN);
    RECV(c, 10, 0);
    /* Part of the data, then the timeout. */
    SEND(s, "part", 0);
    t = now_ms();
    RECV(c, 10, MSG_WAITALL);
    elapsed_say(t, 190, 2500);
    set_timeout(c, SO_RCVTIMEO, 4000);
    t = now_ms();
    RECV(c, 10, MSG_DONTWAIT);
    elapsed_say(t, 0, 2500);
    struct timeval tv = {9, 9};
    socklen_t len = sizeof tv;
    CALL(getsockopt(c, SOL_SOCKET, SO_RCVTIMEO, &tv, &len));
    say("%ld.%06ld", (long)tv.tv_sec, (long)tv.tv_usec);
    close_both(c, s);
}

SCENARIO(receive_timeout_set_before_connect, SMC)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int c = socket(AF_INET, SOCK_STREAM, 0);
    set_timeout(c, SO_RCVTIMEO, 200);
    set_timeout(l, SO_RCVTIMEO, 200);
    MUST(connect(c, &a.sa, a.len));
    int s = accept_one(l);
    checkpoint(2);
    long t = now_ms();
    RECV(c, 10, 0);
    elapsed_say(t, 190, 2500);
    /* Inherited from the listener. */
    t = now_ms();
    RECV(s, 10, 0);
    elapsed_say(t, 190, 2500);
    t = now_ms();
    CALL(accept(l, NULL, NULL));
    elapsed_say(t, 190, 2500);
    close_both(c, s);
    CALL(close(l));
}

SCENARIO(send_timeout, SMC)
{
    PAIR(c, s);
    uint64_t n = fill(c, 0);
    set_timeout(c, SO_SNDTIMEO, 200);
    static char big[100000];
    long t, k;
    /* TCP may still find room for some: time the call that does not. */
    do {
        pattern(big, n, sizeof big);
        t = now_ms();
        k = send(c, big, sizeof big, 0);
        if (k > 0)
            n += (uint64_t)k;
    } while (k == (long)sizeof big);
    say("nothing or less than all: %d", k < 0 ? errno == EAGAIN : k < (long)sizeof big);
    elapsed_say(t, 190, 2500);
    say("intact: %d", drain(s, 0, n));
    close_both(c, s);
}

SCENARIO(timeouts_of_waiting_calls, SMC)
{
    PAIR(c, s);
    long t = now_ms();
    POLL(c, POLLIN, 200);
    elapsed_say(t, 195, 2500);
    struct pollfd p = {c, POLLIN, 0};
    struct timespec ts = {0, 200000000};
    t = now_ms();
    CALL(ppoll(&p, 1, &ts, NULL));
    elapsed_say(t, 195, 2500);
    say("ppoll leaves its timeout alone: %d", ts.tv_nsec == 200000000);
    fd_set r;
    FD_ZERO(&r);
    FD_SET(c, &r);
    struct timeval tv = {0, 200000};
    t = now_ms();
    CALL(select(c + 1, &r, NULL, NULL, &tv));
    elapsed_say(t, 195, 2500);
    say("select counts its timeout down: %ld.%06ld", (long)tv.tv_sec, (long)tv.tv_usec);
    FD_SET(c, &r);
    t = now_ms();
    CALL(pselect(c + 1, &r, NULL, NULL, &ts, NULL));
    elapsed_say(t, 195, 2500);
    int ep = epoll_create1(0);
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = 'c'};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, c, &ev));
    t = now_ms();
    EPOLL_WAIT(ep, 4, 200);
    elapsed_say(t, 195, 2500);
    t = now_ms();
    CALL(epoll_pwait2(ep, &ev, 1, &ts, NULL));
    elapsed_say(t, 195, 2500);
    t = now_ms();
    POLL(c, POLLIN, 0);
    EPOLL_WAIT(ep, 4, 0);
    elapsed_say(t, 0, 2500);
    ts.tv_nsec = -1;
    CALL(ppoll(&p, 1, &ts, NULL));
    CALL(epoll_pwait2(ep, &ev, 1, &ts, NULL));
    tv = (struct timeval){-1, 0};
    CALL(select(c + 1, &r, NULL, NULL, &tv));
    CALL(epoll_wait(ep, &ev, 0, 0));
    CALL(epoll_wait(ep, &ev, -1, 0));
    CALL(close(ep));
    close_both(c, s);
}

SCENARIO(waits_without_descriptors, TCP_ONLY)
{
    long t = now_ms();
    CALL(poll(NULL, 0, 100));
    elapsed_say(t, 95, 2500);
    struct timeval tv = {0, 100000};
    t = now_ms();
    CALL(select(0, NULL, NULL, NULL, &tv));
    elapsed_say(t, 95, 2500);
    CALL(select(-1, NULL, NULL, NULL, &tv));
}
