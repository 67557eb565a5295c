/* Threads that share one socket. */
#include "scenarios.h"
#define THEME "threads"

enum { AMOUNT = 4000000 };

static void writer(struct task *t)
{
    say("sent: %d", send_all(t->fd, 0, AMOUNT, 9000));
}

static void reader(struct task *t)
{
    say("received: %d", drain(t->fd, 0, AMOUNT));
}

SCENARIO(one_reads_one_writes, SMC)
{
    PAIR(c, s);
    struct task w1 = {0}, w2 = {0}, r1 = {0}, r2 = {0};
    start(&w1, "client writer", writer, c);
    start(&w2, "server writer", writer, s);
    start(&r1, "client reader", reader, c);
    start(&r2, "server reader", reader, s);
    join(&w1);
    join(&w2);
    join(&r1);
    join(&r2);
    close_both(c, s);
}

enum { RECORDS = 3000, RECORD = 64 };

static void record_writer(struct task *t)
{
    char record[RECORD];
    memset(record, (int)t->value, sizeof record);
    bool good = true;
    for (int i = 0; i < RECORDS; i++)
        good &= send(t->fd, record, sizeof record, MSG_NOSIGNAL) == sizeof record;
    say("sent: %d", good);
}

/* Blocking sends of few bytes do not mix. */
SCENARIO(two_writers, SMC)
{
    PAIR(c, s);
    struct task a = {.value = 'a'}, b = {.value = 'b'};
    start(&a, "writer a", record_writer, c);
    start(&b, "writer b", record_writer, c);
    int count[2] = {0, 0};
    bool whole = true;
    for (int i = 0; i < 2 * RECORDS; i++) {
        char record[RECORD];
        if (recv(s, record, sizeof record, MSG_WAITALL) != sizeof record)
            die("record %d", i);
        for (int k = 1; k < RECORD; k++)
            whole &= record[k] == record[0];
        count[record[0] == 'b']++;
    }
    join(&a);
    join(&b);
    say("records whole: %d, %d and %d", whole, count[0], count[1]);
    close_both(c, s);
}

static void counting_reader(struct task *t)
{
    char record[RECORD];
    long n;
    t->value = 0;
    while ((n = recv(t->fd, record, sizeof record, 0)) > 0)
        t->value += n;
    say("end: %ld", n);
}

SCENARIO(two_readers, SMC)
{
    PAIR(c, s);
    struct task w = {0}, a = {0}, b = {0};
    start(&a, "reader a", counting_reader, s);
    start(&b, "reader b", counting_reader, s);
    await_blocked(&a);
    await_blocked(&b);
    start(&w, "writer", writer, c);
    join(&w);
    CALL(shutdown(c, SHUT_WR));
    join(&a);
    join(&b);
    say("together all: %d", a.value + b.value == AMOUNT);
    close_both(c, s);
}

static void one_recv(struct task *t)
{
    char b[16];
    t->value = recv(t->fd, b, sizeof b, 0);
}

/* Two sleep in recv on one socket: one message wakes one, the end wakes both. */
SCENARIO(two_blocked_readers, SMC)
{
    PAIR(c, s);
    struct task a = {0}, b = {0};
    start(&a, "reader a", one_recv, s);
    await_blocked(&a);
    start(&b, "reader b", one_recv, s);
    await_blocked(&b);
    SEND(c, "one", 0);
    settle();
    CALL(close(c));
    join(&a);
    join(&b);
    say("one got it, one the end: %d", a.value + b.value == 3 && a.value * b.value == 0);
    CALL(close(s));
}

static void polling_reader(struct task *t)
{
    struct pollfd p = {t->fd, POLLIN, 0};
    CALL(poll(&p, 1, 8000));
}

SCENARIO(two_blocked_pollers, SMC)
{
    PAIR(c, s);
    struct task a = {0}, b = {0};
    start(&a, "poller a", polling_reader, s);
    start(&b, "poller b", polling_reader, s);
    await_blocked(&a);
    await_blocked(&b);
    SEND(c, "both see it", 0);
    join(&a);
    join(&b);
    RECV(s, 100, 0);
    close_both(c, s);
}

static void churn(struct task *t)
{
    struct addr a = loopback(AF_INET, (int)t->value);
    bool good = true;
    for (int i = 0; i < 100; i++) {
        int fd = connect_to(&a);
        good &= send_all(fd, 3, 500, 500) && drain(fd, 4, 500);
        close(fd);
    }
    say("all right: %d", good);
}

static void churn_server(struct task *t)
{
    bool good = true;
    for (int i = 0; i < 100; i++) {
        int fd = accept_one(t->fd);
        good &= drain(fd, 3, 500) && send_all(fd, 4, 500, 500);
        good &= drain_to_eof(fd, 0) == 0;
        close(fd);
    }
    say("all right: %d", good);
}

/* Numbers are freed and taken again by several threads at once. */
SCENARIO(threads_open_and_close, TCP_ONLY)
{
    struct addr a;
    int l = listener(AF_INET, 32, &a);
    struct task c[3], s[3];
    for (int i = 0; i < 3; i++) {
        s[i] = (struct task){0};
        c[i] = (struct task){.value = port_of(&a)};
        start(&s[i], "server", churn_server, l);
        start(&c[i], "client", churn, l);
    }
    for (int i = 0; i < 3; i++) {
        join(&c[i]);
        join(&s[i]);
    }
    CALL(close(l));
}

static void cancelled(struct task *t)
{
    char b[4];
    CALL(recv(t->fd, b, sizeof b, 0));
}

/* recv is a cancellation point. */
SCENARIO(thread_cancelled_in_recv, SMC)
{
    PAIR(c, s);
    struct task t = {0};
    start(&t, "cancelled", cancelled, c);
    await_blocked(&t);
    void *result;
    pthread_cancel(t.thread);
    pthread_join(t.thread, &result);
    say("cancelled: %d", result == PTHREAD_CANCELED);
    SEND(s, "usable", 0);
    await(c, POLLIN);
    RECV(c, 10, 0);
    close_both(c, s);
}
