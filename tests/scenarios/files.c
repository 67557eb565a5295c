/* sendfile, splice, and stdio on a socket. */
#include "scenarios.h"
#define THEME "files"

/* A file with the pattern in it. */
static int pattern_file(size_t n)
{
    int fd = (int)MUST(memfd_create("pattern", 0));
    char b[8192];
    for (size_t at = 0; at < n; at += sizeof b) {
        size_t k = n - at < sizeof b ? n - at : sizeof b;
        pattern(b, at, k);
        if (write(fd, b, k) != (ssize_t)k)
            die("write");
    }
    MUST(lseek(fd, 0, SEEK_SET));
    return fd;
}

SCENARIO(sendfile_small, SMC)
{
    PAIR(c, s);
    int f = pattern_file(10000);
    CALL(sendfile(c, f, NULL, 4000));
    say("file position %ld", (long)lseek(f, 0, SEEK_CUR));
    say("intact: %d", drain(s, 0, 4000));
    off_t at = 6000;
    CALL(sendfile(c, f, &at, 1000));
    say("offset %ld, file position %ld", (long)at, (long)lseek(f, 0, SEEK_CUR));
    say("intact: %d", drain(s, 6000, 1000));
    /* Beyond the end of the file. */
    at = 9500;
    CALL(sendfile(c, f, &at, 5000));
    say("offset %ld", (long)at);
    say("intact: %d", drain(s, 9500, 500));
    CALL(sendfile(c, f, &at, 5000));
    CALL(sendfile(c, f, NULL, 0));
    off64_t at64 = 100;
    CALL(sendfile64(c, f, &at64, 50));
    say("intact: %d", drain(s, 100, 50));
    close_both(c, s);
    CALL(close(f));
}

SCENARIO(sendfile_wrong_arguments, SMC)
{
    PAIR(c, s);
    int f = pattern_file(1000), p[2];
    MUST(pipe(p));
    off_t at = -1;
    CALL(sendfile(c, f, &at, 10));
    CALL(sendfile(c, f, (off_t *)8, 10));
    CALL(sendfile(99, f, NULL, 10));
    CALL(sendfile(c, 99, NULL, 10));
    CALL(sendfile(c, s, NULL, 10));
    CALL(sendfile(f, c, NULL, 10));
    CALL(sendfile(c, p[0], NULL, 10));
    int writer = open("/dev/null", O_WRONLY);
    CALL(sendfile(c, writer, NULL, 10));
    CALL(shutdown(c, SHUT_WR));
    CALL(sendfile(c, f, NULL, 10));
    say("file position %ld", (long)lseek(f, 0, SEEK_CUR));
    close_both(c, s);
    close_both(p[0], p[1]);
    close_both(writer, f);
}

SCENARIO(sendfile_non_blocking, SMC)
{
    PAIR(c, s);
    enum { SIZE = 64 << 20 };
    int f = pattern_file(SIZE);
    nonblock(c);
    off_t at = 0;
    long n = sendfile(c, f, &at, SIZE);
    say("some but not all: %d, offset follows: %d", n > 0 && n < SIZE, at == n);
    for (int refused = 0; refused < 5;) {
        errno = 0;
        n = sendfile(c, f, &at, SIZE);
        if (n < 0 && errno != EAGAIN)
            die("sendfile");
        struct pollfd p = {c, POLLOUT, 0};
        refused = n < 0 && poll(&p, 1, 25) == 0 ? refused + 1 : 0;
    }
    CALL(sendfile(c, f, &at, SIZE));
    say("intact: %d", drain(s, 0, (uint64_t)at));
    RECV(s, 10, MSG_DONTWAIT);
    close_both(c, s);
    CALL(close(f));
}

SCENARIO(sendfile_large, SMC)
{
    int fd;
    pid_t pid = fork_pair(&fd);
    enum { SIZE = 3 << 20 };
    if (pid == 0) {
        int f = pattern_file(SIZE);
        off_t at = 0;
        while (at < SIZE)
            if (sendfile(fd, f, &at, SIZE) <= 0)
                die("sendfile");
        say("sent");
        close_both(fd, f);
        return;
    }
    say("received: %d", drain_to_eof(fd, 0) == SIZE);
    CALL(close(fd));
    reap(pid);
}

SCENARIO(sendfile_after_header, SMC)
{
    PAIR(c, s);
    int f = pattern_file(3000);
    set_int(c, IPPROTO_TCP, TCP_CORK, 1);
    SEND(c, "header ", MSG_MORE);
    CALL(sendfile(c, f, NULL, 3000));
    set_int(c, IPPROTO_TCP, TCP_CORK, 0);
    RECV(s, 7, MSG_WAITALL);
    say("intact: %d", drain(s, 0, 3000));
    close_both(c, s);
    CALL(close(f));
}

SCENARIO(splice_from_socket, SMC)
{
    PAIR(c, s);
    int p[2];
    MUST(pipe(p));
    char b[64];
    SEND(c, "through a pipe", 0);
    await(s, POLLIN);
    CALL(splice(s, NULL, p[1], NULL, 7, SPLICE_F_MOVE));
    CALL(splice(s, NULL, p[1], NULL, 100, SPLICE_F_MOVE));
    long n = CALL(read(p[0], b, sizeof b));
    say("%s", show(b, n));
    nonblock(s);
    CALL(splice(s, NULL, p[1], NULL, 100, 0));
    off_t at = 0;
    CALL(splice(s, &at, p[1], NULL, 100, 0));
    int file = pattern_file(10);
    CALL(splice(s, NULL, file, NULL, 100, 0));
    CALL(shutdown(c, SHUT_WR));
    await(s, POLLRDHUP);
    CALL(splice(s, NULL, p[1], NULL, 100, 0));
    close_both(c, s);
    close_both(p[0], p[1]);
    CALL(close(file));
}

SCENARIO(splice_to_socket, SMC)
{
    PAIR(c, s);
    int p[2];
    MUST(pipe(p));
    CALL(splice(p[0], NULL, c, NULL, 100, SPLICE_F_NONBLOCK));
    CALL(write(p[1], "through a pipe", 14));
    CALL(splice(p[0], NULL, c, NULL, 7, SPLICE_F_MORE));
    CALL(splice(p[0], NULL, c, NULL, 100, 0));
    RECV(s, 14, MSG_WAITALL);
    CALL(close(p[1]));
    CALL(splice(p[0], NULL, c, NULL, 100, 0));
    CALL(close(p[0]));
    MUST(pipe(p));
    CALL(write(p[1], "x", 1));
    CALL(shutdown(c, SHUT_WR));
    CALL(splice(p[0], NULL, c, NULL, 100, 0));
    CALL(splice(p[0], NULL, 99, NULL, 100, 0));
    close_both(p[0], p[1]);
    close_both(c, s);
}

static void splice_relay(struct task *t)
{
    int p[2];
    MUST(pipe(p));
    uint64_t moved = 0;
    for (;;) {
        ssize_t n = splice(t->fd, NULL, p[1], NULL, 65536, SPLICE_F_MOVE);
        if (n < 0)
            die("splice in");
        if (n == 0)
            break;
        while (n > 0) {
            ssize_t k = splice(p[0], NULL, t->fd2, NULL, (size_t)n, SPLICE_F_MOVE);
            if (k <= 0)
                die("splice out");
            n -= k;
            moved += (uint64_t)k;
        }
    }
    shutdown(t->fd2, SHUT_WR);
    say("moved %llu", (unsigned long long)moved);
    close(p[0]);
    close(p[1]);
}

static void relay_sender(struct task *t)
{
    say("sent: %d", send_all(t->fd, 0, 3000000, 40000));
    CALL(shutdown(t->fd, SHUT_WR));
}

/* A proxy: socket to pipe to socket. */
SCENARIO(splice_relay_between_sockets, SMC)
{
    PAIR(c, s);
    int d, e;
    tcp_pair_of(AF_INET, &d, &e);
    struct task relay = {.fd2 = d}, sender = {0};
    start(&relay, "relay", splice_relay, s);
    start(&sender, "sender", relay_sender, c);
    say("received: %d", drain_to_eof(e, 0) == 3000000);
    join(&sender);
    join(&relay);
    close_both(c, s);
    close_both(d, e);
}

SCENARIO(stdio_on_a_socket, SMC)
{
    PAIR(c, s);
    FILE *f = fdopen(s, "r+");
    say("same number: %d", fileno(f) == s);
    SEND(c, "first line\nsecond ", 0);
    char line[64];
    say("%s", fgets(line, sizeof line, f) ? show(line, (long)strlen(line)) : "nothing");
    SEND(c, "line\n", 0);
    say("%s", fgets(line, sizeof line, f) ? show(line, (long)strlen(line)) : "nothing");
    /* Between reading and writing one stream, stdio wants a seek. */
    fseek(f, 0, SEEK_CUR);
    CALL(fprintf(f, "answer %d\n", 42));
    RECV(c, 100, MSG_DONTWAIT);
    CALL(fflush(f));
    RECV(c, 10, MSG_WAITALL);
    CALL(fputs("left in the buffer", f) >= 0);
    CALL(fclose(f));
    RECV(c, 100, MSG_WAITALL);
    RECV(c, 100, 0);
    RECV(s, 10, 0);
    CALL(close(c));
}

SCENARIO(stdio_two_streams, SMC)
{
    PAIR(c, s);
    FILE *in = fdopen(dup(s), "r"), *out = fdopen(s, "w");
    setvbuf(out, NULL, _IOLBF, 1024);
    SEND(c, "42 word rest\n", 0);
    int number = 0;
    char word[16] = "";
    say("scanned %d", fscanf(in, "%d %15s", &number, word));
    say("%d %s", number, word);
    CALL(fgetc(in));
    CALL(ungetc('R', in));
    char *line = NULL;
    size_t size = 0;
    CALL(getline(&line, &size, in));
    say("%s", show(line, (long)strlen(line)));
    free(line);
    CALL(fputs("a line\n", out) >= 0);
    await(c, POLLIN);
    RECV(c, 100, 0);
    CALL(fclose(out));
    /* The other copy still holds the connection. */
    settle();
    LOOK(c);
    CALL(shutdown(c, SHUT_WR));
    CALL(fgetc(in));
    say("end %d error %d", feof(in) != 0, ferror(in) != 0);
    CALL(fclose(in));
    await(c, POLLHUP | POLLRDHUP);
    CALL(close(c));
}

SCENARIO(stdio_bulk, SMC)
{
    int fd;
    pid_t pid = fork_pair(&fd);
    if (pid == 0) {
        FILE *f = fdopen(fd, "w");
        for (int i = 0; i < 20000; i++)
            fprintf(f, "line number %d\n", i);
        CALL(fclose(f));
        return;
    }
    FILE *f = fdopen(fd, "r");
    char line[64], want[64];
    int good = 0;
    while (fgets(line, sizeof line, f)) {
        snprintf(want, sizeof want, "line number %d\n", good);
        if (strcmp(line, want) == 0)
            good++;
    }
    say("lines: %d", good);
    CALL(fclose(f));
    reap(pid);
}

SCENARIO(stdio_errors, SMC)
{
    PAIR(c, s);
    FILE *f = fdopen(s, "r+");
    nonblock(s);
    CALL(fgetc(f));
    say("end %d error %d", feof(f) != 0, ferror(f) != 0);
    clearerr(f);
    linger_zero(c);
    CALL(close(c));
    await_reset(s);
    CALL(fgetc(f));
    say("end %d error %d", feof(f) != 0, ferror(f) != 0);
    CALL(fputs("x", f) >= 0);
    CALL(fflush(f));
    CALL(fclose(f));
    CALL((long)fdopen(99, "r") == 0);
}

SCENARIO(dprintf_on_a_socket, SMC)
{
    PAIR(c, s);
    CALL(dprintf(c, "number %d and %s", 7, "text"));
    await(s, POLLIN);
    RECV(s, 100, 0);
    CALL(dprintf(c, "%0*d", 5000, 1));
    char b[5000];
    CALL(recv(s, b, sizeof b, MSG_WAITALL));
    say("%s", show(b, 5000));
    close_both(c, s);
}

SCENARIO(standard_output_is_a_socket, SMC)
{
    PAIR(c, s);
    pid_t pid = fork_child();
    if (pid == 0) {
        MUST(dup2(s, 0));
        MUST(dup2(s, 1));
        close_both(c, s);
        char line[64];
        say("%s", fgets(line, sizeof line, stdin) ? show(line, (long)strlen(line)) : "nothing");
        printf("printed\n");
        puts("put");
        fflush(stdout);
        return;
    }
    CALL(close(s));
    SEND(c, "to standard input\n", 0);
    RECV(c, 12, MSG_WAITALL);
    RECV(c, 10, 0);
    reap(pid);
    CALL(close(c));
}

/* What stdio holds when its descriptor is replaced goes where the number leads then. */
SCENARIO(buffered_before_dup2, SMC)
{
    PAIR(c, s);
    pid_t pid = fork_child();
    if (pid == 0) {
        int file = pattern_file(0);
        MUST(dup2(file, 1));
        setvbuf(stdout, NULL, _IOFBF, 4096);
        printf("before, ");
        MUST(dup2(s, 1));
        MUST(dup2(s, 2));
        close_both(c, s);
        printf("after\n");
        fflush(stdout);
        errno = ENOENT;
        perror("error");
        dprintf(1, "%s %d %.2f %d %d %d %d %d\n", "many", 1, 2.5, 3, 4, 5, 6, 7);
        CALL((long)freopen("/dev/null", "w", stdout) != 0);
        printf("to nobody\n");
        CALL(fclose(stderr));
        CALL(fclose(stdout));
        return;
    }
    CALL(close(s));
    RECV(c, 199, MSG_WAITALL);
    reap(pid);
    CALL(close(c));
}
