/* scenarios list | run NAME | entry NAME FD ACTOR */
#include "scenarios.h"

static struct scenario *scenarios;
static struct entry *entries;

void register_scenario(struct scenario *s)
{
    s->next = scenarios;
    scenarios = s;
}

void register_entry(struct entry *e)
{
    e->next = entries;
    entries = e;
}

static void on_sigpipe(int sig)
{
    (void)sig;
    sigpipes++;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "list") == 0) {
        for (struct scenario *s = scenarios; s; s = s->next)
            printf("%s %s %s\n", s->theme, s->name, s->expect == SMC ? "smc" : "tcp");
        return 0;
    }
    /* Counted, so that a transcript shows which call raised it. */
    struct sigaction sa = {.sa_handler = on_sigpipe, .sa_flags = SA_RESTART};
    sigaction(SIGPIPE, &sa, NULL);

    if (argc == 3 && strcmp(argv[1], "run") == 0) {
        for (struct scenario *s = scenarios; s; s = s->next) {
            if (strcmp(s->name, argv[2]) != 0)
                continue;
            transcript_init();
            pid_t self = getpid();
            s->run();
            /* A forked child that ran to the end of its scenario. */
            if (getpid() != self)
                _exit(0);
            say("end");
            return 0;
        }
    } else if (argc == 5 && strcmp(argv[1], "entry") == 0) {
        for (struct entry *e = entries; e; e = e->next) {
            if (strcmp(e->name, argv[2]) != 0)
                continue;
            actor = argv[4];
            transcript_inherit();
            e->run(atoi(argv[3]));
            return 0;
        }
    }
    fprintf(stderr, "usage: scenarios list | run NAME | entry NAME FD ACTOR\n");
    return 2;
}
