/* The transcript: formatting of results, and the calls that write themselves down. */
#include "scenarios.h"

__thread const char *actor = "main";
__thread volatile sig_atomic_t sigpipes;

/* Out of the way of the descriptors that scenarios make, and the same numbers
 * after exec. */
enum { TRANSCRIPT_FD = 300, REPLY_FD = 301 };
static int transcript_fd = TRANSCRIPT_FD;
static bool checkpoints;

/* Standard output and input are taken away so that scenarios may use the
 * numbers 0 and 1 for sockets, and nothing of libc's buffers mixes in. */
void transcript_init(void)
{
    if (dup2(1, TRANSCRIPT_FD) < 0 || dup2(0, REPLY_FD) < 0)
        exit(3);
    int null = open("/dev/null", O_RDWR);
    dup2(null, 0);
    dup2(null, 1);
    close(null);
    transcript_inherit();
}

void transcript_inherit(void)
{
    checkpoints = getenv("SCENARIO_CHECKPOINTS") != NULL;
}

void transcript_to(int fd)
{
    if (dup2(transcript_fd, fd) < 0)
        die("transcript_to");
    transcript_fd = fd;
    checkpoints = false;
}

/* Raw write: what the harness reads must not depend on the code under test. */
static void raw_write(int fd, const char *text, size_t n)
{
    while (n > 0) {
        long k = syscall(SYS_write, fd, text, n);
        if (k < 0) {
            if (errno == EINTR)
                continue;
            _exit(3);
        }
        text += k;
        n -= (size_t)k;
    }
}

void say(const char *format, ...)
{
    int saved = errno;
    char line[4096];
    int n = snprintf(line, sizeof line, "[%s] ", actor);
    va_list ap;
    va_start(ap, format);
    n += vsnprintf(line + n, sizeof line - (size_t)n - 1, format, ap);
    va_end(ap);
    if (n > (int)sizeof line - 2)
        n = (int)sizeof line - 2;
    while (line[n - 1] == ' ')
        n--;
    line[n++] = '\n';
    raw_write(transcript_fd, line, (size_t)n);
    errno = saved;
}

void die(const char *format, ...)
{
    char text[1024];
    int saved = errno;
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    say("scenario gave up: %s (errno %s)", text, errno_name(saved));
    _exit(4);
}

void checkpoint(int ends)
{
    if (!checkpoints)
        return;
    char text[64];
    int n = snprintf(text, sizeof text, "@checkpoint %d %d\n", (int)getpid(), ends);
    raw_write(2, text, (size_t)n);
    char reply;
    while (syscall(SYS_read, REPLY_FD, &reply, 1L) < 0 && errno == EINTR)
        ;
}

const char *errno_name(int e)
{
    const char *name = strerrorname_np(e);
    return name ? name : "?";
}

/* Rotating buffers: a line may name several masks. */
static char *scratch(void)
{
    static __thread char text[8][256];
    static __thread unsigned turn;
    return text[turn++ % 8];
}

struct bit {
    unsigned bit;
    const char *name;
};

static const char *bit_names(unsigned mask, const struct bit *bits)
{
    char *text = scratch();
    int n = 0;
    text[0] = 0;
    for (; bits->bit; bits++)
        if (mask & bits->bit) {
            n += sprintf(text + n, "%s%s", n ? "|" : "", bits->name);
            mask &= ~bits->bit;
        }
    if (mask || !n)
        sprintf(text + n, "%s%#x", n ? "|" : "", mask);
    return text;
}

const char *poll_names(unsigned mask)
{
    static const struct bit bits[] = {
        {POLLIN, "IN"},         {POLLPRI, "PRI"},       {POLLOUT, "OUT"},
        {POLLERR, "ERR"},       {POLLHUP, "HUP"},       {POLLNVAL, "NVAL"},
        {POLLRDHUP, "RDHUP"},   {POLLRDNORM, "RDNORM"}, {POLLRDBAND, "RDBAND"},
        {POLLWRNORM, "WRNORM"}, {POLLWRBAND, "WRBAND"}, {0, NULL},
    };
    return bit_names(mask, bits);
}

/* Same bits in Linux; kept apart because only poll knows NVAL. */
const char *epoll_names(unsigned mask)
{
    return poll_names(mask);
}

static uint32_t checksum(const unsigned char *p, size_t n)
{
    uint32_t h = 2166136261u;
    while (n--)
        h = (h ^ *p++) * 16777619u;
    return h;
}

const char *show(const void *data, long n)
{
    const unsigned char *p = data;
    char *text = scratch();
    if (n < 0)
        return "";
    bool printable = n <= 60;
    for (long i = 0; printable && i < n; i++)
        printable = (p[i] >= ' ' && p[i] < 127) || p[i] == '\n';
    if (!printable) {
        sprintf(text, "<%ld bytes %08x>", n, checksum(p, (size_t)n));
        return text;
    }
    char *out = text;
    *out++ = '"';
    for (long i = 0; i < n; i++) {
        if (p[i] == '\n') {
            *out++ = '\\';
            *out++ = 'n';
        } else {
            *out++ = (char)p[i];
        }
    }
    *out++ = '"';
    *out = 0;
    return text;
}

static const char *outcome(long result, int e)
{
    char *text = scratch();
    int n = sprintf(text, "%ld", result);
    if (result == -1)
        n += sprintf(text + n, " %s", errno_name(e));
    else if (e)
        n += sprintf(text + n, " (errno left at %s)", errno_name(e));
    if (sigpipes)
        sprintf(text + n, " with %d SIGPIPE", (int)sigpipes);
    return text;
}

long say_result(const char *call, long result)
{
    int e = errno;
    say("%s = %s", call, outcome(result, e));
    errno = e;
    return result;
}

long must(const char *call, long result)
{
    if (result == -1)
        die("%s", call);
    return result;
}

long recv_say(const char *name, int fd, size_t n, const char *flag_names, int flags)
{
    char buf[65536];
    if (n > sizeof buf)
        die("recv_say of %zu", n);
    errno = 0;
    sigpipes = 0;
    long k = recv(fd, buf, n, flags);
    int e = errno;
    say("recv(%s, %zu, %s) = %s %s", name, n, flag_names, outcome(k, e), show(buf, k));
    errno = e;
    return k;
}

long send_say(const char *name, int fd, const void *data, size_t n, const char *flag_names,
              int flags)
{
    errno = 0;
    sigpipes = 0;
    long k = send(fd, data, n, flags);
    int e = errno;
    say("send(%s, %s, %s) = %s", name, show(data, (long)n), flag_names, outcome(k, e));
    errno = e;
    return k;
}

int poll_say(const char *name, int fd, const char *event_names, short events, int timeout)
{
    struct pollfd p = {fd, events, 0};
    errno = 0;
    sigpipes = 0;
    int n = poll(&p, 1, timeout);
    int e = errno;
    say("poll(%s, %s, %d) = %s %s", name, event_names, timeout, outcome(n, e),
        poll_names((unsigned short)p.revents));
    errno = e;
    return n;
}

void look_say(const char *name, int fd)
{
    struct pollfd p = {fd,
                       POLLIN | POLLPRI | POLLOUT | POLLRDHUP | POLLRDNORM | POLLRDBAND |
                           POLLWRNORM | POLLWRBAND,
                       0};
    poll(&p, 1, 0);

    fd_set r, w, x;
    FD_ZERO(&r);
    FD_ZERO(&w);
    FD_ZERO(&x);
    FD_SET(fd, &r);
    FD_SET(fd, &w);
    FD_SET(fd, &x);
    struct timeval zero = {0, 0};
    int selected = select(fd + 1, &r, &w, &x, &zero);

    int ep = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ev = {.events = EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP};
    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
    ev.events = 0;
    epoll_wait(ep, &ev, 1, 0);
    close(ep);

    int unread = -1;
    int rc = ioctl(fd, FIONREAD, &unread);
    char *inq = scratch();
    sprintf(inq, "%d", unread);
    say("look(%s): poll %s, select %d %c%c%c, epoll %s, FIONREAD %s", name,
        poll_names((unsigned short)p.revents), selected, FD_ISSET(fd, &r) ? 'r' : '-',
        FD_ISSET(fd, &w) ? 'w' : '-', FD_ISSET(fd, &x) ? 'x' : '-', epoll_names(ev.events),
        rc ? errno_name(errno) : inq);
}

void error_say(const char *name, int fd)
{
    int value = -1;
    socklen_t len = sizeof value;
    int rc = getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, &len);
    say("SO_ERROR of %s = %s", name, rc ? outcome(rc, errno) : errno_name(value));
}

void flags_say(const char *name, int fd)
{
    int fl = fcntl(fd, F_GETFL), fdfl = fcntl(fd, F_GETFD);
    say("flags of %s: F_GETFL %#x F_GETFD %d", name, fl == -1 ? -1 : fl & ~O_LARGEFILE, fdfl);
}

void epoll_ctl_say(int ep, int op, int fd, uint32_t events, char tag)
{
    struct epoll_event ev = {.events = events, .data.u64 = (uint64_t)tag};
    static const char *const ops[] = {"", "ADD", "DEL", "MOD"};
    errno = 0;
    int rc = epoll_ctl(ep, op, fd, &ev);
    say("epoll_ctl %s %c %s%s%s%s = %d %s", ops[op], tag,
        epoll_names(events & 0xffff), events & EPOLLET ? "|ET" : "",
        events & EPOLLONESHOT ? "|ONESHOT" : "", events & EPOLLEXCLUSIVE ? "|EXCLUSIVE" : "", rc,
        rc ? errno_name(errno) : "");
}

int epoll_wait_say(const char *name, int ep, int max, int timeout)
{
    struct epoll_event ev[64];
    errno = 0;
    sigpipes = 0;
    int n = epoll_wait(ep, ev, max, timeout);
    int e = errno;
    char text[1024];
    int k = 0;
    text[0] = 0;
    for (int i = 0; i < n; i++)
        k += snprintf(text + k, sizeof text - (size_t)k, " %c:%s", (char)ev[i].data.u64,
                      epoll_names(ev[i].events));
    say("epoll_wait(%s, %d, %d) = %s%s", name, max, timeout, outcome(n, e), text);
    errno = e;
    return n;
}

void name_say(const char *label, const struct sockaddr *sa, socklen_t given, socklen_t got)
{
    char text[INET6_ADDRSTRLEN] = "-";
    if (got < sizeof(sa_family_t) || given < sizeof(sa_family_t)) {
        say("%s: length %u", label, got);
        return;
    }
    bool port = false;
    if (sa->sa_family == AF_INET && given >= sizeof(struct sockaddr_in)) {
        const struct sockaddr_in *in = (const void *)sa;
        inet_ntop(AF_INET, &in->sin_addr, text, sizeof text);
        port = in->sin_port != 0;
    } else if (sa->sa_family == AF_INET6 && given >= sizeof(struct sockaddr_in6)) {
        const struct sockaddr_in6 *in6 = (const void *)sa;
        inet_ntop(AF_INET6, &in6->sin6_addr, text, sizeof text);
        port = in6->sin6_port != 0;
    }
    say("%s: length %u family %d address %s port %s", label, got, sa->sa_family, text,
        port ? "set" : "0");
}
