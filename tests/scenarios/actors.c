/* Threads and processes of a scenario, and how they wait for each other. */
#include "scenarios.h"

static int up[2], down[2]; /* child to parent, parent to child */
static bool is_child;

static void *task_main(void *arg)
{
    struct task *t = arg;
    actor = t->actor;
    t->tid = (pid_t)syscall(SYS_gettid);
    t->run(t);
    return NULL;
}

void start(struct task *t, const char *name, void (*run)(struct task *), int fd)
{
    t->actor = name;
    t->run = run;
    t->fd = fd;
    t->tid = 0;
    int e = pthread_create(&t->thread, NULL, task_main, t);
    if (e) {
        errno = e;
        die("pthread_create");
    }
}

void join(struct task *t)
{
    pthread_join(t->thread, NULL);
}

/* Sleeping at several looks in a row: a thread that only waits for a core is
 * runnable, not asleep. */
static void await_sleeping(const char *path)
{
    long end = now_ms() + 8000;
    int seen = 0;
    while (seen < 6) {
        char text[512];
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            die("%s", path);
        ssize_t n = read(fd, text, sizeof text - 1);
        close(fd);
        text[n > 0 ? n : 0] = 0;
        char *paren = strrchr(text, ')');
        seen = paren && paren[2] == 'S' ? seen + 1 : 0;
        if (now_ms() > end)
            die("does not block: %s", path);
        nap(5);
    }
}

void await_blocked(struct task *t)
{
    char path[64];
    while (!t->tid)
        nap(1);
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)t->tid);
    await_sleeping(path);
}

void await_process_blocked(pid_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    await_sleeping(path);
}

long by_fork(void)
{
    return fork();
}

pid_t fork_child(void)
{
    return fork_child_by(by_fork);
}

pid_t fork_child_by(long (*how)(void))
{
    MUST(pipe2(up, O_CLOEXEC));
    MUST(pipe2(down, O_CLOEXEC));
    pid_t pid = (pid_t)MUST(how());
    if (pid == 0) {
        is_child = true;
        actor = "child";
        /* So that hear() ends when the other side is gone. */
        close(up[0]);
        close(down[1]);
    } else {
        close(up[1]);
        close(down[0]);
    }
    return pid;
}

void tell_int(int value)
{
    if (write(is_child ? up[1] : down[1], &value, sizeof value) != sizeof value)
        die("tell");
}

int hear_int(void)
{
    int value = 0;
    ssize_t n;
    do
        n = read(is_child ? down[0] : up[0], &value, sizeof value);
    while (n < 0 && errno == EINTR);
    if (n != sizeof value)
        die("hear: the other side is gone");
    return value;
}

void tell(void)
{
    tell_int(1);
}

void hear(void)
{
    hear_int();
}

pid_t fork_pair(int *fd)
{
    pid_t pid = fork_child();
    if (pid == 0) {
        struct addr a = loopback(AF_INET, hear_int());
        *fd = connect_to(&a);
        hear(); /* accepted */
        checkpoint(1);
        tell();
    } else {
        struct addr a;
        int l = listener(AF_INET, 16, &a);
        tell_int(port_of(&a));
        *fd = accept_one(l);
        MUST(close(l));
        tell();
        hear();
        checkpoint(1);
    }
    return pid;
}

void reap(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            die("waitpid");
    if (WIFSIGNALED(status))
        say("child killed by signal %d", WTERMSIG(status));
    else
        say("child exited %d", WEXITSTATUS(status));
}

void exec_entry(const char *name, int fd)
{
    char number[16];
    snprintf(number, sizeof number, "%d", fd);
    const char *argv[] = {"scenarios", "entry", name, number, actor, NULL};
    execv("/proc/self/exe", (char *const *)argv);
    die("execv");
}
