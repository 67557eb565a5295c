/*
 * Preloaded, in the place of the library: what a program makes as a TCP socket becomes one of
 * Linux's own SMC, and nothing else changes. So the same programs run over net/smc.
 */
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef AF_SMC
#define AF_SMC 43
#endif
enum { SMCPROTO_SMC = 0, SMCPROTO_SMC6 = 1 };

int socket(int domain, int type, int protocol)
{
    int is_ip = domain == AF_INET || domain == AF_INET6;
    int is_stream = (type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)) == SOCK_STREAM;
    int is_tcp = is_stream && (protocol == 0 || protocol == IPPROTO_TCP);

    if (is_ip && is_tcp) {
        protocol = domain == AF_INET6 ? SMCPROTO_SMC6 : SMCPROTO_SMC;
        domain = AF_SMC;
    }
    return (int)syscall(SYS_socket, domain, type, protocol);
}
