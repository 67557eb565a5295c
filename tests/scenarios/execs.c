/* exec and spawn with inherited connections. */
#include "scenarios.h"
#define THEME "exec"

extern char **environ;

ENTRY(exec_echo)
{
    FLAGS_OF(fd);
    RECV(fd, 100, 0);
    SEND(fd, "from the new image", 0);
    checkpoint(1);
    RECV(fd, 100, 0);
    LOOK(fd);
    CALL(close(fd));
}

ENTRY(exec_closed)
{
    RECV(fd, 100, 0);
    FLAGS_OF(fd);
}

ENTRY(exec_accept)
{
    int s = accept_one(fd);
    RECV(s, 100, MSG_WAITALL);
    SEND(s, "accepted by the new image", 0);
    CALL(close(s));
}

SCENARIO(exec_with_connection, SMC)
{
    PAIR(c, s);
    pid_t pid = fork_child();
    if (pid == 0) {
        close(c);
        exec_entry("exec_echo", s);
    }
    CALL(close(s));
    SEND(c, "to the new image", 0);
    await(c, POLLIN);
    RECV(c, 100, 0);
    CALL(shutdown(c, SHUT_WR));
    RECV(c, 100, 0);
    reap(pid);
    CALL(close(c));
}

/* Data that the old image left unread. */
SCENARIO(exec_with_pending_data, SMC)
{
    PAIR(c, s);
    SEND(c, "read before", 0);
    await(s, POLLIN);
    RECV(s, 11, 0);
    SEND(c, "left for the new image", 0);
    await(s, POLLIN);
    pid_t pid = fork_child();
    if (pid == 0) {
        close(c);
        exec_entry("exec_echo", s);
    }
    CALL(close(s));
    await(c, POLLIN);
    RECV(c, 100, 0);
    CALL(close(c));
    reap(pid);
}

SCENARIO(exec_closes_cloexec, SMC)
{
    PAIR(c, s);
    MUST(fcntl(s, F_SETFD, FD_CLOEXEC));
    pid_t pid = fork_child();
    if (pid == 0) {
        close(c);
        exec_entry("exec_closed", s);
    }
    CALL(close(s));
    await(c, POLLRDHUP);
    RECV(c, 100, 0);
    reap(pid);
    CALL(close(c));
}

SCENARIO(exec_with_listener, TCP_ONLY)
{
    struct addr a;
    int l = listener(AF_INET, 5, &a);
    pid_t pid = fork_child();
    if (pid == 0)
        exec_entry("exec_accept", l);
    CALL(close(l));
    int c = connect_to(&a);
    SEND(c, "hello", 0);
    CALL(shutdown(c, SHUT_WR));
    RECV(c, 100, 0);
    RECV(c, 100, 0);
    reap(pid);
    CALL(close(c));
}

/* exec in the only process there is. */
ENTRY(exec_self_second_half)
{
    SEND(fd, "after exec", 0);
    char b[100];
    long n = recv(fd, b, sizeof b, 0);
    say("%s", show(b, n));
    CALL(close(fd));
}

SCENARIO(exec_of_the_client, SMC)
{
    int fd;
    pid_t pid = fork_pair(&fd);
    if (pid == 0) {
        SEND(fd, "before exec ", 0);
        exec_entry("exec_self_second_half", fd);
    }
    RECV(fd, 22, MSG_WAITALL);
    SEND(fd, "well done", 0);
    RECV(fd, 10, 0);
    CALL(close(fd));
    reap(pid);
}

SCENARIO(exec_that_fails, SMC)
{
    PAIR(c, s);
    char *argv[] = {"nothing", NULL};
    CALL(execv("/nonexistent/program", argv));
    CALL(execvp("no-such-program-anywhere", argv));
    SEND(c, "still here", 0);
    await(s, POLLIN);
    RECV(s, 100, 0);
    close_both(c, s);
}

static void cat_over(int c)
{
    SEND(c, "through cat", 0);
    await(c, POLLIN);
    RECV(c, 100, 0);
    say("much: %d", send_all(c, 0, 20000, 20000));
    CALL(shutdown(c, SHUT_WR));
    say("came back whole: %d", drain_to_eof(c, 0) == 20000);
}

SCENARIO(spawn_with_file_actions, SMC)
{
    PAIR(c, s);
    MUST(fcntl(c, F_SETFD, FD_CLOEXEC));
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, s, 0);
    posix_spawn_file_actions_adddup2(&actions, s, 1);
    posix_spawn_file_actions_addclose(&actions, s);
    pid_t pid;
    char *argv[] = {"cat", NULL};
    say("spawned: %d", posix_spawnp(&pid, "cat", &actions, NULL, argv, environ));
    CALL(close(s));
    cat_over(c);
    reap(pid);
    CALL(close(c));
}

SCENARIO(vfork_and_exec, SMC)
{
    PAIR(c, s);
    MUST(fcntl(c, F_SETFD, FD_CLOEXEC));
    MUST(fcntl(s, F_SETFD, FD_CLOEXEC));
    char *argv[] = {"cat", NULL};
    pid_t pid = vfork();
    if (pid == 0) {
        dup2(s, 0);
        dup2(s, 1);
        execvp("cat", argv);
        _exit(9);
    }
    /* The parent's own copies are untouched by what the child did. */
    FLAGS_OF(c);
    FLAGS_OF(s);
    CALL(close(s));
    cat_over(c);
    reap(pid);
    CALL(close(c));
}

SCENARIO(vfork_child_exits, SMC)
{
    PAIR(c, s);
    pid_t pid = vfork();
    if (pid == 0)
        _exit(5);
    reap(pid);
    SEND(c, "still here", 0);
    await(s, POLLIN);
    RECV(s, 100, 0);
    close_both(c, s);
}

SCENARIO(shell_with_connection, SMC)
{
    PAIR(c, s);
    MUST(fcntl(c, F_SETFD, FD_CLOEXEC));
    pid_t pid = fork_child();
    if (pid == 0) {
        MUST(dup2(s, 0));
        MUST(dup2(s, 1));
        close(s);
        execl("/bin/sh", "sh", "-c", "read line; echo got $line; cat | tr a-z A-Z", NULL);
        _exit(9);
    }
    CALL(close(s));
    SEND(c, "a line\n", 0);
    RECV(c, 11, MSG_WAITALL);
    SEND(c, "more", 0);
    CALL(shutdown(c, SHUT_WR));
    RECV(c, 100, MSG_WAITALL);
    reap(pid);
    CALL(close(c));
}

SCENARIO(system_beside_connection, SMC)
{
    PAIR(c, s);
    CALL(system("exit 3"));
    FILE *p = popen("echo from popen", "r");
    char line[64] = "";
    say("%s", fgets(line, sizeof line, p) ? show(line, (long)strlen(line)) : "nothing");
    CALL(pclose(p));
    SEND(c, "still here", 0);
    await(s, POLLIN);
    RECV(s, 100, 0);
    /* The children inherited copies; they are gone. */
    CALL(close(c));
    await(s, POLLRDHUP);
    CALL(close(s));
}

/* Every function of the family finds its arguments and passes the connection on. */
static void exec_cat(int how)
{
    char *argv[] = {"cat", "-u", "-", NULL};
    switch (how) {
    case 0:
        execl("/bin/cat", "cat", "-u", "-", NULL);
        break;
    case 1:
        execlp("cat", "cat", "-u", "-", "-", "-", "-", "-", "-", NULL);
        break;
    case 2:
        execle("/bin/cat", "cat", "-u", NULL, environ);
        break;
    case 3:
        execv("/bin/cat", argv);
        break;
    case 4:
        execve("/bin/cat", argv, environ);
        break;
    case 5:
        execvp("cat", argv);
        break;
    case 6:
        execvpe("cat", argv, environ);
        break;
    default:
        fexecve(open("/bin/cat", O_RDONLY | O_CLOEXEC), argv, environ);
    }
    _exit(9);
}

SCENARIO(exec_family, SMC)
{
    for (int how = 0; how < 8; how++) {
        PAIR(c, s);
        MUST(fcntl(c, F_SETFD, FD_CLOEXEC));
        MUST(fcntl(s, F_SETFD, FD_CLOEXEC));
        pid_t pid = fork_child();
        if (pid == 0) {
            MUST(dup2(s, 0));
            MUST(dup2(s, 1));
            exec_cat(how);
        }
        CALL(close(s));
        SEND(c, "through cat", 0);
        RECV(c, 11, MSG_WAITALL);
        CALL(shutdown(c, SHUT_WR));
        RECV(c, 100, 0);
        reap(pid);
        CALL(close(c));
    }
}

/* The shell of system() and popen() inherits what is not close-on-exec. */
SCENARIO(shell_uses_connection, SMC)
{
    PAIR(c, s);
    MUST(fcntl(c, F_SETFD, FD_CLOEXEC));
    MUST(dup2(s, 9));
    CALL(system("echo from system >&9"));
    FILE *p = popen("cat >&9", "w");
    fputs("from popen\n", p);
    CALL(pclose(p));
    RECV(c, 23, MSG_WAITALL);
    SEND(s, "and the parent", 0);
    RECV(c, 14, MSG_WAITALL);
    CALL(close(9));
    close_both(c, s);
}

/* So does the shell of system(), also where it inherits no connection. */
SCENARIO(limits_in_a_shell, SMC)
{
    PAIR(c, s);
    MUST(fcntl(c, F_SETFD, FD_CLOEXEC));
    MUST(fcntl(s, F_SETFD, FD_CLOEXEC));
    struct rlimit l;
    MUST(getrlimit(RLIMIT_NOFILE, &l));
    l.rlim_cur = 600;
    CALL(setrlimit(RLIMIT_NOFILE, &l));
    CALL(system("test $(ulimit -n) = 600"));
    SEND(c, "still here", 0);
    RECV(s, 10, MSG_WAITALL);
    close_both(c, s);
}

static int interrupted;

static void on_interrupt(int signal)
{
    interrupted = signal;
}

/* The caller ignores what interrupts the command, and gets its status. */
SCENARIO(system_and_signals, SMC)
{
    PAIR(c, s);
    struct sigaction handler = {.sa_handler = on_interrupt}, now;
    MUST(sigaction(SIGINT, &handler, NULL));
    CALL(system("kill -INT $PPID; exit 5"));
    CALL(system("kill -INT $$; exit 6"));
    CALL(system("exec /nothing/there 2>/dev/null"));
    CALL(system(NULL) != 0);
    say("interrupted by %d", interrupted);
    MUST(sigaction(SIGINT, NULL, &now));
    say("handler %s", now.sa_handler == on_interrupt ? "kept" : "lost");
    sigset_t blocked;
    MUST(sigprocmask(SIG_BLOCK, NULL, &blocked));
    say("blocked %d", sigismember(&blocked, SIGCHLD));
    handler.sa_handler = SIG_IGN;
    MUST(sigaction(SIGCHLD, &handler, NULL));
    CALL(system("exit 7"));
    SEND(c, "still here", 0);
    RECV(s, 10, MSG_WAITALL);
    close_both(c, s);
}

/* A program that is executed sees the limits that were set, and so does this one. */
SCENARIO(limits_of_descriptors, SMC)
{
    struct rlimit l;
    MUST(getrlimit(RLIMIT_NOFILE, &l));
    l.rlim_cur = 700;
    CALL(setrlimit(RLIMIT_NOFILE, &l));
    PAIR(c, s);
    MUST(getrlimit(RLIMIT_NOFILE, &l));
    say("limit %ld, %ld, %d", (long)l.rlim_cur, sysconf(_SC_OPEN_MAX), getdtablesize());
    CALL(system("test $(ulimit -n) = 700"));
    CALL(fcntl(c, F_DUPFD, 700));
    CALL(dup2(c, 700));
    CALL(dup3(c, 699, 077));
    CALL(dup3(c, c, O_CLOEXEC));
    CALL(dup2(c, c) == c);
    CALL(fcntl(c, F_DUPFD, 650));
    CALL(close(650));
    l.rlim_cur = 800;
    CALL(setrlimit(RLIMIT_NOFILE, &l));
    CALL(dup2(s, 750));
    CALL(close(750));
    l.rlim_cur = l.rlim_max + 1;
    CALL(setrlimit(RLIMIT_NOFILE, &l));
    CALL(prlimit(0, RLIMIT_NOFILE, NULL, &l));
    say("limit %ld", (long)l.rlim_cur);
    SEND(c, "still here", 0);
    await(s, POLLIN);
    RECV(s, 100, 0);
    close_both(c, s);
}
