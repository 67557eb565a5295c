/* Copies of descriptors, and closing ranges of them. */
#include "scenarios.h"
#include <dirent.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <linux/close_range.h>
#define THEME "dup"

enum how { DUP, DUP2, DUP3, F_DUP, F_DUP_CLOEXEC };

static int copy(int fd, enum how how)
{
    switch (how) {
    case DUP:
        return dup(fd);
    case DUP2:
        return dup2(fd, 70);
    case DUP3:
        return dup3(fd, 71, O_CLOEXEC);
    case F_DUP:
        return fcntl(fd, F_DUPFD, 80);
    default:
        return fcntl(fd, F_DUPFD_CLOEXEC, 80);
    }
}

/* Either copy reads and writes; only the last close is an end. */
static void duplicate(enum how how)
{
    PAIR(c, s);
    int d = (int)CALL(copy(c, how));
    FLAGS_OF(d);
    FLAGS_OF(c);
    SEND(d, "by the copy", 0);
    await(s, POLLIN);
    RECV(s, 100, 0);
    SEND(s, "one two", 0);
    await(c, POLLIN);
    LOOK(d);
    RECV(d, 4, 0);
    RECV(c, 100, 0);
    CALL(close(c));
    settle();
    LOOK(s);
    SEND(s, "to the copy", 0);
    await(d, POLLIN);
    RECV(d, 100, 0);
    CALL(close(d));
    await(s, POLLRDHUP);
    RECV(s, 100, 0);
    CALL(close(s));
}

SCENARIO(dup_plain, SMC)
{
    duplicate(DUP);
}

SCENARIO(dup2_to_number, SMC)
{
    duplicate(DUP2);
}

SCENARIO(dup3_cloexec, SMC)
{
    duplicate(DUP3);
}

SCENARIO(dup_by_fcntl, SMC)
{
    duplicate(F_DUP);
}

SCENARIO(dup_by_fcntl_cloexec, SMC)
{
    duplicate(F_DUP_CLOEXEC);
}

SCENARIO(dup_shares_flags, SMC)
{
    PAIR(c, s);
    int d = dup(c);
    nonblock(d);
    FLAGS_OF(c);
    RECV(c, 10, 0);
    CALL(fcntl(d, F_SETFD, FD_CLOEXEC));
    FLAGS_OF(c);
    FLAGS_OF(d);
    CALL(shutdown(d, SHUT_WR));
    SEND(c, "x", MSG_NOSIGNAL);
    await(s, POLLRDHUP);
    close_both(c, d);
    CALL(close(s));
}

SCENARIO(dup_before_the_move, SMC)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int c = socket(AF_INET, SOCK_STREAM, 0);
    int before = dup(c);
    MUST(connect(c, &a.sa, a.len));
    int between = dup(c);
    int s = accept_one(l);
    checkpoint(2);
    SEND(before, "1", 0);
    SEND(between, "2", 0);
    SEND(c, "3", 0);
    RECV(s, 3, MSG_WAITALL);
    close_both(c, between);
    SEND(s, "to the first copy", 0);
    await(before, POLLIN);
    RECV(before, 100, 0);
    CALL(close(before));
    await(s, POLLRDHUP);
    RECV(s, 10, 0);
    close_both(s, l);
}

SCENARIO(dup2_onto_a_connection_closes_it, SMC)
{
    PAIR(c, s);
    int d, t;
    tcp_pair_of(AF_INET, &d, &t);
    CALL(dup2(c, d) == d);
    await(t, POLLRDHUP);
    LOOK(t);
    RECV(t, 10, 0);
    SEND(d, "to the first", 0);
    await(s, POLLIN);
    RECV(s, 100, 0);
    close_both(c, d);
    await(s, POLLRDHUP);
    RECV(s, 10, 0);
    close_both(s, t);
}

SCENARIO(dup2_onto_itself, SMC)
{
    PAIR(c, s);
    CALL(dup2(c, c) == c);
    CALL(dup3(c, c, 0));
    CALL(dup3(c, 90, 0x1234));
    SEND(c, "same", 0);
    await(s, POLLIN);
    RECV(s, 10, 0);
    close_both(c, s);
}

SCENARIO(dup2_of_a_file_onto_a_connection, SMC)
{
    PAIR(c, s);
    int null = open("/dev/null", O_RDWR);
    CALL(dup2(null, c) == c);
    await(s, POLLRDHUP);
    RECV(s, 10, 0);
    char b[4];
    CALL(read(c, b, 4));
    CALL(recv(c, b, 4, 0));
    close_both(c, null);
    CALL(close(s));
}

SCENARIO(dup2_to_standard_input_and_output, SMC)
{
    PAIR(c, s);
    CALL(dup2(c, 0));
    CALL(dup2(c, 1));
    CALL(close(c));
    CALL(write(1, "out", 3));
    await(s, POLLIN);
    RECV(s, 10, 0);
    SEND(s, "in", 0);
    char b[8];
    CALL(read(0, b, sizeof b));
    CALL(close(0));
    settle();
    LOOK(s);
    CALL(close(1));
    await(s, POLLRDHUP);
    CALL(close(s));
}

SCENARIO(dup_of_a_listener, SMC)
{
    struct addr a = quiet_address();
    int l = socket(AF_INET, SOCK_STREAM, 0);
    MUST(bind(l, &a.sa, a.len));
    MUST(listen(l, 5));
    int d = dup(l);
    CALL(close(l));
    int c = connect_to(&a);
    await(d, POLLIN);
    int s = accept_one(d);
    checkpoint(2);
    SEND(c, "x", 0);
    await(s, POLLIN);
    RECV(s, 10, 0);
    close_both(c, s);
    CALL(close(d));
    c = socket(AF_INET, SOCK_STREAM, 0);
    CALL(connect(c, &a.sa, a.len));
    CALL(close(c));
}

/* The pair at numbers of their own, so that a range has nothing else in it. */
static void pair_at(int *c, int *s, int number)
{
    tcp_pair_of(AF_INET, c, s);
    MUST(dup2(*c, number));
    MUST(dup2(*s, number + 1));
    close(*c);
    close(*s);
    *c = number;
    *s = number + 1;
}

SCENARIO(close_range_closes, SMC)
{
    int c, s;
    pair_at(&c, &s, 60);
    int d, t;
    pair_at(&d, &t, 50);
    CALL(close_range(60, 60, 0));
    await(s, POLLRDHUP);
    RECV(s, 10, 0);
    RECV(c, 10, 0);
    CALL(close_range(50, 61, 0));
    RECV(d, 10, 0);
    RECV(s, 10, 0);
    CALL(close_range(61, 60, 0));
    CALL(close_range(60, 61, 0x80));
}

SCENARIO(close_range_cloexec, SMC)
{
    int c, s;
    pair_at(&c, &s, 60);
    CALL(close_range(60, 61, CLOSE_RANGE_CLOEXEC));
    FLAGS_OF(c);
    FLAGS_OF(s);
    SEND(c, "alive", 0);
    await(s, POLLIN);
    RECV(s, 10, 0);
    close_both(c, s);
}

/* What a daemon does first: the library must survive it, and so must the
 * connections made afterwards. */
SCENARIO(closefrom_three, SMC)
{
    PAIR(c, s);
    transcript_to(1);
    closefrom(3);
    RECV(c, 10, 0);
    RECV(s, 10, 0);
    int d, t;
    tcp_pair_of(AF_INET, &d, &t);
    SEND(d, "afterwards", 0);
    await(t, POLLIN);
    RECV(t, 10, 0);
    CALL(close(d));
    await(t, POLLRDHUP);
    RECV(t, 10, 0);
    CALL(close(t));
}

SCENARIO(close_range_to_the_end_in_a_child, SMC)
{
    PAIR(c, s);
    pid_t pid = fork();
    if (pid == 0) {
        actor = "child";
        transcript_to(1);
        CALL(dup2(c, 3));
        CALL(close_range(4, ~0u, 0));
        SEND(3, "from the child", 0);
        _exit(0);
    }
    reap(pid);
    await(s, POLLIN);
    RECV(s, 100, 0);
    SEND(c, "from the parent", 0);
    await(s, POLLIN);
    RECV(s, 100, 0);
    close_both(c, s);
}

/* close every number, as daemons of old do. */
SCENARIO(close_in_a_loop, SMC)
{
    PAIR(c, s);
    transcript_to(1);
    for (int i = 3; i < 1024; i++)
        close(i);
    say("closed");
    int d, t;
    tcp_pair_of(AF_INET, &d, &t);
    SEND(d, "afterwards", 0);
    await(t, POLLIN);
    RECV(t, 10, 0);
    close_both(d, t);
    RECV(c, 10, 0);
    RECV(s, 10, 0);
}

SCENARIO(same_number_again, SMC)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    int first = -1;
    for (int i = 0; i < 4; i++) {
        int c = connect_to(&a), s = accept_one(l);
        if (i == 0) {
            first = c;
            checkpoint(2);
        }
        say("same number: %d", c == first);
        /* Unread data of the one before must not show up. */
        SEND(s, "left unread", 0);
        await(c, POLLIN);
        close_both(c, s);
        int file = open("/dev/null", O_RDONLY);
        char b[4];
        CALL(read(file, b, 4));
        CALL(close(file));
    }
    CALL(close(l));
}

static void talk_afterwards(void)
{
    PAIR(c, s);
    SEND(c, "afterwards", 0);
    await(s, POLLIN);
    RECV(s, 10, 0);
    checkpoint(2);
    close_both(c, s);
}

/* How many numbers from `fd` to `end` are somebody's. */
static int found_open(int fd, int end)
{
    int ep = epoll_create1(0), found = 0;
    struct epoll_event event = {EPOLLIN, {0}};
    for (; fd < end; fd++)
        found += fcntl(fd, F_GETFD) != -1 || errno != EBADF || dup(fd) != -1 || errno != EBADF ||
                 epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event) != -1 || errno != EBADF ||
                 dup2(fd, fd) != -1 || errno != EBADF;
    close(ep);
    return found;
}

/* Closing all that is not known, where the library's descriptors are within the program's range. */
ENTRY(daemon_without_room)
{
    struct rlimit limit;
    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    say("limits %d %d", (int)limit.rlim_cur, (int)limit.rlim_max);
    talk_afterwards();
    say("found open: %d", found_open(fd, limit.rlim_cur));
    closefrom(fd);
    say("closefrom");
    talk_afterwards();
    for (int i = fd; i < (int)limit.rlim_cur; i++)
        close(i);
    say("one after the other");
    talk_afterwards();
    DIR *dir = opendir("/proc/self/fd");
    for (struct dirent *entry; (entry = readdir(dir));)
        if (atoi(entry->d_name) >= fd && atoi(entry->d_name) != dirfd(dir))
            close(atoi(entry->d_name));
    closedir(dir);
    say("those listed");
    talk_afterwards();
    syscall(SYS_close_range, fd, ~0u, 0);
    say("by syscall");
    talk_afterwards();
}

SCENARIO(close_all_without_room, SMC)
{
    struct rlimit limit = {1024, 1024};
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    /* Above what the test itself has open. */
    exec_entry("daemon_without_room", 310);
}
