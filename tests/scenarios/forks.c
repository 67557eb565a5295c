/* fork with open connections and listeners. */
#include "scenarios.h"
#include <linux/sched.h>
#include <sched.h>
#include <sys/syscall.h>
#define THEME "fork"

/* The classic server: accept, fork, the parent closes its copy. */
static void accept_then_fork_by(long (*how)(void))
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int c = connect_to(&a), s = accept_one(l);
    pid_t pid = fork_child_by(how);
    if (pid == 0) {
        close_both(l, c);
        struct addr peer = {.len = sizeof peer.ss};
        CALL(getpeername(s, &peer.sa, &peer.len));
        say("family: %d", peer.sa.sa_family == AF_INET);
        RECV(s, 100, 0);
        SEND(s, "from the child", 0);
        checkpoint(1);
        RECV(s, 100, 0);
        CALL(close(s));
        return;
    }
    CALL(close(s));
    SEND(c, "to the child", 0);
    await(c, POLLIN);
    RECV(c, 100, 0);
    checkpoint(1);
    CALL(shutdown(c, SHUT_WR));
    RECV(c, 100, 0);
    reap(pid);
    LOOK(c);
    close_both(c, l);
}

SCENARIO(accept_then_fork, SMC) { accept_then_fork_by(by_fork); }

/* The same by calls of which libc knows nothing. */
static long by_raw_clone(void)
{
    return syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, 0L);
}

static long by_raw_clone3(void)
{
    struct clone_args args = {.exit_signal = SIGCHLD};
    return syscall(SYS_clone3, &args, sizeof args);
}

SCENARIO(accept_then_raw_clone, SMC) { accept_then_fork_by(by_raw_clone); }
SCENARIO(accept_then_raw_clone3, SMC) { accept_then_fork_by(by_raw_clone3); }
#ifdef SYS_fork
static long by_raw_fork(void)
{
    return syscall(SYS_fork);
}

SCENARIO(accept_then_raw_fork, SMC) { accept_then_fork_by(by_raw_fork); }
#endif

static int close_as_child(void *fd)
{
    close(*(int *)fd);
    return 0;
}

static int talk_as_child(void *fd)
{
    actor = "child";
    int s = *(int *)fd;
    RECV(s, 100, 0);
    SEND(s, "from the child", 0);
    CALL(close(s));
    return 7;
}

/* clone() of a process runs a function on another stack. */
SCENARIO(accept_then_clone, SMC)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int c = connect_to(&a), s = accept_one(l);
    enum { STACK = 1 << 18 };
    char *stack = malloc(STACK);
    pid_t pid = (pid_t)MUST(clone(talk_as_child, stack + STACK, SIGCHLD, &s));
    CALL(close(s));
    SEND(c, "to the child", 0);
    await(c, POLLIN);
    RECV(c, 100, 0);
    checkpoint(1);
    reap(pid);
    RECV(c, 100, 0);
    close_both(c, l);
    free(stack);
}

/* A child that shares the memory is left alone: what it closes stays open here. */
SCENARIO(clone_with_our_memory, SMC)
{
    PAIR(c, s);
    enum { STACK = 1 << 18 };
    char *stack = malloc(STACK);
    pid_t pid = (pid_t)MUST(
        clone(close_as_child, stack + STACK, CLONE_VM | CLONE_VFORK | SIGCHLD, &s));
    reap(pid);
    SEND(c, "question", 0);
    await(s, POLLIN);
    RECV(s, 100, 0);
    SEND(s, "answer", 0);
    RECV(c, 100, 0);
    close_both(c, s);
    free(stack);
}

/* Copied and closed by calls of which libc knows nothing. */
SCENARIO(raw_dup_and_close, SMC)
{
    PAIR(c, s);
    SEND(c, "question", 0);
    await(s, POLLIN);
    RECV(s, 100, 0);
    checkpoint(2);
    int other = (int)CALL(syscall(SYS_dup3, s, s + 20, 0));
    CALL(syscall(SYS_close, s));
    SEND(other, "answer", 0);
    RECV(c, 100, 0);
    int third = (int)CALL(syscall(SYS_dup, other));
    CALL(syscall(SYS_close_range, other, other, 0));
    SEND(third, "more", 0);
    RECV(c, 100, 0);
    CALL(syscall(SYS_close, third));
    await(c, POLLRDHUP);
    RECV(c, 100, 0);
    CALL(close(c));
}

/* The same after the connection has been used in the parent. */
SCENARIO(use_then_fork, SMC)
{
    PAIR(c, s);
    SEND(c, "first", 0);
    await(s, POLLIN);
    RECV(s, 100, 0);
    pid_t pid = fork_child();
    if (pid == 0) {
        CALL(close(c));
        RECV(s, 100, 0);
        SEND(s, "from the child", 0);
        CALL(close(s));
        return;
    }
    CALL(close(s));
    SEND(c, "second", 0);
    RECV(c, 100, 0);
    RECV(c, 100, 0);
    reap(pid);
    CALL(close(c));
}

SCENARIO(parent_and_child_write, SMC)
{
    PAIR(c, s);
    pid_t pid = fork_child();
    if (pid == 0) {
        CALL(close(s));
        SEND(c, "child 1 ", 0);
        tell();
        hear();
        SEND(c, "child 2 ", 0);
        CALL(close(c));
        tell();
        return;
    }
    hear();
    SEND(c, "parent 1 ", 0);
    tell();
    hear();
    SEND(c, "parent 2", 0);
    RECV(s, 33, MSG_WAITALL);
    reap(pid);
    LOOK(s);
    CALL(close(c));
    await(s, POLLRDHUP);
    RECV(s, 10, 0);
    CALL(close(s));
}

SCENARIO(parent_and_child_read, SMC)
{
    PAIR(c, s);
    pid_t pid = fork_child();
    if (pid == 0) {
        CALL(close(s));
        RECV(c, 5, 0);
        tell();
        hear();
        RECV(c, 5, 0);
        tell();
        return;
    }
    SEND(s, "11111222223333344444", 0);
    hear();
    RECV(c, 5, 0);
    tell();
    hear();
    RECV(c, 100, 0);
    reap(pid);
    SEND(s, "after", 0);
    await(c, POLLIN);
    RECV(c, 100, 0);
    close_both(c, s);
}

SCENARIO(child_exits_connection_stays, SMC)
{
    PAIR(c, s);
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    reap(pid);
    settle();
    LOOK(c);
    LOOK(s);
    SEND(c, "still", 0);
    await(s, POLLIN);
    RECV(s, 100, 0);
    SEND(s, "there", 0);
    await(c, POLLIN);
    RECV(c, 100, 0);
    CALL(close(c));
    await(s, POLLRDHUP);
    LOOK(s);
    CALL(close(s));
}

SCENARIO(child_closes_its_copy, SMC)
{
    PAIR(c, s);
    pid_t pid = fork_child();
    if (pid == 0) {
        close_both(c, s);
        tell();
        hear();
        return;
    }
    hear();
    settle();
    LOOK(s);
    SEND(c, "no end yet", 0);
    await(s, POLLIN);
    RECV(s, 100, 0);
    CALL(close(c));
    await(s, POLLRDHUP);
    RECV(s, 100, 0);
    tell();
    reap(pid);
    CALL(close(s));
}

SCENARIO(parent_closes_child_holds, SMC)
{
    PAIR(c, s);
    pid_t pid = fork_child();
    if (pid == 0) {
        CALL(close(s));
        hear();
        SEND(c, "child still holds it", 0);
        hear();
        return;
    }
    CALL(close(c));
    settle();
    LOOK(s);
    tell();
    await(s, POLLIN);
    RECV(s, 100, 0);
    tell();
    await(s, POLLRDHUP);
    RECV(s, 100, 0);
    reap(pid);
    CALL(close(s));
}

/* shutdown is for the connection, not for the copy. */
SCENARIO(child_shuts_down, SMC)
{
    PAIR(c, s);
    pid_t pid = fork();
    if (pid == 0) {
        shutdown(c, SHUT_WR);
        _exit(0);
    }
    reap(pid);
    await(s, POLLRDHUP);
    LOOK(c);
    LOOK(s);
    SEND(c, "x", MSG_NOSIGNAL);
    close_both(c, s);
}

SCENARIO(child_killed_connection_stays, SMC)
{
    PAIR(c, s);
    pid_t pid = fork_child();
    if (pid == 0) {
        SEND(c, "child was here", 0);
        tell();
        pause();
    }
    hear();
    kill(pid, SIGKILL);
    reap(pid);
    RECV(s, 100, 0);
    SEND(c, "parent is here", 0);
    await(s, POLLIN);
    RECV(s, 100, 0);
    close_both(c, s);
}

static void prefork_worker(int l, int number)
{
    int s = accept_one(l);
    char b[8] = "";
    (void)!read(s, b, sizeof b);
    b[0] = (char)('0' + number);
    (void)!write(s, b, 1);
    close(s);
    _exit(0);
}

/* Workers that share a listener; which one gets a connection is open. */
SCENARIO(prefork_workers, SMC)
{
    struct addr a;
    int l = listener(AF_INET, 16, &a);
    pid_t worker[3];
    for (int i = 0; i < 3; i++) {
        worker[i] = fork();
        if (worker[i] == 0)
            prefork_worker(l, i);
    }
    CALL(close(l));
    int c[3], seen = 0;
    for (int i = 0; i < 3; i++)
        c[i] = connect_to(&a);
    for (int i = 0; i < 3; i++) {
        char b[8];
        SEND(c[i], "question", 0);
        CALL(recv(c[i], b, sizeof b, 0));
        seen |= 1 << (b[0] - '0');
        if (i == 0)
            checkpoint(1);
        CALL(close(c[i]));
    }
    say("each worker answered one: %d", seen == 7);
    for (int i = 0; i < 3; i++)
        reap(worker[i]);
}

SCENARIO(listener_inherited_by_child_only, SMC)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    pid_t pid = fork_child();
    if (pid == 0) {
        int s = accept_one(l);
        CALL(close(l));
        RECV(s, 100, MSG_WAITALL);
        CALL(close(s));
        return;
    }
    CALL(close(l));
    int c = connect_to(&a);
    SEND(c, "hello child", 0);
    settle();
    checkpoint(1);
    CALL(close(c));
    reap(pid);
}

/* A grandchild goes on with the connection after parent and child are gone. */
SCENARIO(grandchild_uses_connection, SMC)
{
    PAIR(c, s);
    pid_t pid = fork_child();
    if (pid == 0) {
        if (fork() == 0) {
            actor = "grandchild";
            settle();
            RECV(s, 100, 0);
            SEND(s, "from the grandchild", 0);
            tell();
            _exit(0);
        }
        _exit(0);
    }
    CALL(close(s));
    reap(pid);
    SEND(c, "anybody?", 0);
    RECV(c, 100, 0);
    hear();
    CALL(close(c));
}

SCENARIO(fork_between_connect_and_accept, TCP_ONLY)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int c = connect_to(&a);
    SEND(c, "early ", 0);
    pid_t pid = fork_child();
    if (pid == 0) {
        CALL(close(c));
        int s = accept_one(l);
        RECV(s, 10, MSG_WAITALL);
        SEND(s, "seen", 0);
        CALL(close(s));
        return;
    }
    CALL(close(l));
    SEND(c, "late", 0);
    RECV(c, 100, 0);
    RECV(c, 100, 0);
    reap(pid);
    CALL(close(c));
}

SCENARIO(pending_data_crosses_fork, SMC)
{
    PAIR(c, s);
    say("sent: %d", send_all(c, 0, 30000, 1000));
    await(s, POLLIN);
    say("received: %d", drain(s, 0, 10000));
    pid_t pid = fork_child();
    if (pid == 0) {
        say("received: %d", drain(s, 10000, 10000));
        tell();
        return;
    }
    hear();
    reap(pid);
    say("received: %d", drain(s, 20000, 10000));
    RECV(s, 10, MSG_DONTWAIT);
    close_both(c, s);
}

SCENARIO(bulk_in_the_child, SMC)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int c = connect_to(&a), s = accept_one(l);
    CALL(close(l));
    pid_t pid = fork_child();
    enum { N = 5000000 };
    if (pid == 0) {
        CALL(close(c));
        say("received: %lld", (long long)drain_to_eof(s, 1));
        say("sent: %d", send_all(s, 2, N, 30000));
        CALL(close(s));
        return;
    }
    CALL(close(s));
    say("sent: %d", send_all(c, 1, N, 30000));
    checkpoint(1);
    CALL(shutdown(c, SHUT_WR));
    say("received: %lld", (long long)drain_to_eof(c, 2));
    CALL(close(c));
    reap(pid);
}
