/* What every scenario uses.
 *
 * A scenario is a small program over sockets that writes down what it sees: one
 * line per observed call, each marked with the actor (thread or process) that
 * made it. The same scenario runs over plain TCP and under the library; the
 * two transcripts must be equal.
 *
 * Two rules keep a transcript the same from run to run: wait for a condition
 * (await, await_blocked, hear) before observing what depends on it, and write
 * down no number that the kernel is free to choose (ports, buffer fill levels). */
#ifndef SCENARIOS_H
#define SCENARIOS_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <linux/sockios.h>
#include <time.h>
#include <unistd.h>

/* ---- registration ---------------------------------------------------- */

enum expect {
    TCP_ONLY, /* nothing here has to move to SMC (no connection, or not yet known) */
    SMC,      /* under the library a connection must have moved at a checkpoint */
};

struct scenario {
    const char *name, *theme;
    enum expect expect;
    void (*run)(void);
    struct scenario *next;
};
void register_scenario(struct scenario *s);

/* THEME is defined by each file before its first scenario. */
#define SCENARIO(NAME, EXPECT)                                                    \
    static void NAME(void);                                                       \
    static struct scenario scenario_##NAME = {#NAME, THEME, EXPECT, NAME, NULL};  \
    __attribute__((constructor)) static void register_##NAME(void)                \
    {                                                                             \
        register_scenario(&scenario_##NAME);                                      \
    }                                                                             \
    static void NAME(void)

/* A function that a scenario reaches by exec of this same program: the new
 * image runs it with the number of an inherited descriptor. */
struct entry {
    const char *name;
    void (*run)(int fd);
    struct entry *next;
};
void register_entry(struct entry *e);
#define ENTRY(NAME)                                                               \
    static void NAME(int fd);                                                     \
    static struct entry entry_##NAME = {#NAME, NAME, NULL};                       \
    __attribute__((constructor)) static void register_##NAME(void)                \
    {                                                                             \
        register_entry(&entry_##NAME);                                            \
    }                                                                             \
    static void NAME(int fd)

/* ---- the transcript --------------------------------------------------- */

extern __thread const char *actor;
extern __thread volatile sig_atomic_t sigpipes;

void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
long say_result(const char *call, long result);
const char *errno_name(int e);
const char *poll_names(unsigned mask);
const char *epoll_names(unsigned mask);
const char *show(const void *data, long n); /* quoted text, or length and checksum */
void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
/* From here on the transcript is written to this descriptor; for scenarios
 * that close every high descriptor. */
void transcript_to(int fd);
void transcript_init(void);
void transcript_inherit(void);

/* Make the call, write it down with its result (and errno, and SIGPIPE), and
 * give the result. errno is cleared first: a successful call that leaves a
 * stray errno is a difference too. */
#define CALL(E) (errno = 0, sigpipes = 0, say_result(#E, (long)(E)))

/* A call that is part of the set-up: not written down, must succeed. */
#define MUST(E) must(#E, (long)(E))
long must(const char *call, long result);

long recv_say(const char *name, int fd, size_t n, const char *flag_names, int flags);
long send_say(const char *name, int fd, const void *data, size_t n, const char *flag_names,
              int flags);
int poll_say(const char *name, int fd, const char *event_names, short events, int timeout);
void look_say(const char *name, int fd);
void error_say(const char *name, int fd);
void flags_say(const char *name, int fd);
int epoll_wait_say(const char *name, int ep, int max, int timeout);
void name_say(const char *label, const struct sockaddr *sa, socklen_t given, socklen_t got);

#define RECV(FD, N, FLAGS) recv_say(#FD, FD, N, #FLAGS, FLAGS)
#define SEND(FD, TEXT, FLAGS) send_say(#FD, FD, TEXT, strlen(TEXT), #FLAGS, FLAGS)
#define POLL(FD, EVENTS, TIMEOUT) poll_say(#FD, FD, #EVENTS, EVENTS, TIMEOUT)
/* What poll, select and a fresh epoll set say of a socket, and FIONREAD. */
#define LOOK(FD) look_say(#FD, FD)
#define SO_ERROR_OF(FD) error_say(#FD, FD)
#define FLAGS_OF(FD) flags_say(#FD, FD)
void epoll_ctl_say(int ep, int op, int fd, uint32_t events, char tag);
/* The tag stands for the descriptor in the events written down later. */
#define ADD(EP, FD, EVENTS, TAG) epoll_ctl_say(EP, EPOLL_CTL_ADD, FD, EVENTS, TAG)
#define MOD(EP, FD, EVENTS, TAG) epoll_ctl_say(EP, EPOLL_CTL_MOD, FD, EVENTS, TAG)
#define DEL(EP, FD, TAG) epoll_ctl_say(EP, EPOLL_CTL_DEL, FD, 0, TAG)
#define EPOLL_WAIT(EP, MAX, TIMEOUT) epoll_wait_say(#EP, EP, MAX, TIMEOUT)

/* ---- waiting ----------------------------------------------------------- */

/* Wait until poll shows one of the events (error and hang-up included if asked
 * for): no line, unless it does not come. */
void await(int fd, short events);
/* Wait until a reset has arrived. */
void await_reset(int fd);
/* Let everything under way arrive, where there is nothing to wait for. */
void settle(void);
void nap(int milliseconds);
long now_ms(void);
/* Write down whether the time since `since` lies within the range. */
void elapsed_say(long since, long at_least, long at_most);

/* ---- sockets ------------------------------------------------------------ */

struct addr {
    union {
        struct sockaddr sa;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_storage ss;
    };
    socklen_t len;
};
struct addr loopback(int family, int port);
struct addr local_of(int fd);
struct addr peer_of(int fd);
int port_of(const struct addr *a);
int bound_socket(int family, struct addr *a);   /* with SO_REUSEADDR, not listening */
int listener(int family, int backlog, struct addr *a);
/* A free address whose port nobody else will take after it was closed. */
struct addr quiet_address(void);
int connect_to(const struct addr *a);           /* blocking, must succeed */
int accept_one(int listener);                   /* blocking, must succeed */
/* A connection within one thread: listen, connect, accept. */
void tcp_pair_of(int family, int *client, int *server);
#define PAIR(C, S)                                                                \
    int C, S;                                                                     \
    tcp_pair_of(AF_INET, &C, &S)
#define close_both(A, B)                                                          \
    do {                                                                          \
        CALL(close(A));                                                           \
        CALL(close(B));                                                           \
    } while (0)
void nonblock(int fd);
void set_int(int fd, int level, int option, int value);
int get_int(int fd, int level, int option);
void linger_zero(int fd);
void small_buffers(int a, int b);

/* Says to the harness (not to the transcript): the process should have at
 * least this many connection ends on SMC now. The harness looks, and answers. */
void checkpoint(int ends);

/* ---- bulk data ------------------------------------------------------------ */

void pattern(void *buf, uint64_t offset, size_t n);
bool is_pattern(const void *buf, uint64_t offset, size_t n);
/* Send until the socket stays full; gives the number of bytes. */
uint64_t fill(int fd, uint64_t offset);
/* Receive exactly n bytes of the pattern; true if all were right. */
bool drain(int fd, uint64_t offset, uint64_t n);
bool send_all(int fd, uint64_t offset, uint64_t n, size_t chunk);
/* Receive up to the end of file; -1 if a byte was wrong or on an error. */
int64_t drain_to_eof(int fd, uint64_t offset);

/* ---- threads ---------------------------------------------------------------- */

struct task {
    pthread_t thread;
    volatile pid_t tid;
    const char *actor;
    void (*run)(struct task *);
    int fd, fd2;
    long value;
};
void start(struct task *t, const char *actor, void (*run)(struct task *), int fd);
void join(struct task *t);
/* Wait until the thread sleeps in a call. */
void await_blocked(struct task *t);
void await_process_blocked(pid_t pid);

/* ---- processes ---------------------------------------------------------------- */

/* Fork with a pair of pipes between the two, for tell and hear. */
pid_t fork_child(void);
/* The same by another call than fork(), or by that. */
long by_fork(void);
pid_t fork_child_by(long (*how)(void));
void tell(void);
void hear(void);
void tell_int(int value);
int hear_int(void);
/* Fork before anything else, then listen, connect and accept across the two
 * processes: the child is the client. Gives the pid in the parent, 0 in the child. */
pid_t fork_pair(int *fd);
void reap(pid_t pid);
/* exec of this program: run entry `name` with descriptor fd. Only returns on failure. */
void exec_entry(const char *name, int fd);

#endif
