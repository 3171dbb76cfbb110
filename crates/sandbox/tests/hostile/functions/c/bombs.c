/* What programs without a runtime do that hurts: the event says which. */

#define _GNU_SOURCE
#include "runtime.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>

static void *wait_for_ever(void *nothing) {
    for (;;) pause();
    return nothing;
}

static const char *handle(const char *event) {
    sigset_t all;
    sigfillset(&all);
    if (strstr(event, "\"bomb\":\"fork\"")) {
        for (;;) fork();
    }
    if (strstr(event, "\"bomb\":\"vfork\"")) {
        /* As fast as can be, and nobody waits for them. */
        signal(SIGCHLD, SIG_IGN);
        for (;;) if (vfork() == 0) _exit(0);
    }
    if (strstr(event, "\"bomb\":\"thread\"")) {
        pthread_attr_t small;
        pthread_attr_init(&small);
        pthread_attr_setstacksize(&small, 16384);
        pthread_t thread;
        for (;;) pthread_create(&thread, &small, wait_for_ever, 0);
    }
    if (strstr(event, "\"bomb\":\"memory\"")) {
        for (;;) {
            char *some = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (some != MAP_FAILED) memset(some, 1, 1 << 20);
        }
    }
    if (strstr(event, "\"bomb\":\"shared memory\"")) {
        /* Belongs to no process. */
        for (;;) {
            int id = shmget(IPC_PRIVATE, 1 << 20, 0600);
            if (id >= 0) memset(shmat(id, 0, 0), 1, 1 << 20);
        }
    }
    if (strstr(event, "\"bomb\":\"memory file\"")) {
        for (;;) {
            int file = memfd_create("mine", 0);
            static char some[1 << 20];
            while (write(file, some, sizeof some) > 0);
        }
    }
    if (strstr(event, "\"bomb\":\"sockets\"")) {
        /* What is written and not read is the kernel's memory. */
        int pair[2];
        static char some[1 << 16];
        while (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0) {
            fcntl(pair[0], F_SETFL, O_NONBLOCK);
            while (write(pair[0], some, sizeof some) > 0);
        }
        return "[]";
    }
    if (strstr(event, "\"bomb\":\"signals\"")) {
        /* To all that there are: itself, and whoever is near. */
        sigprocmask(SIG_BLOCK, &all, 0);
        for (int signal = 1; signal < 65; signal++) {
            if (signal == SIGKILL || signal == SIGSTOP) continue;
            kill(-1, signal);
            kill(getppid(), signal);
        }
        for (;;) kill(-1, SIGSTOP);
    }
    if (strstr(event, "\"bomb\":\"stack\"")) {
        char here[1 << 16];
        memset(here, 1, sizeof here);
        return handle(event) + here[0];
    }
    if (strstr(event, "\"bomb\":\"crash\"")) {
        __builtin_trap();
    }
    return "\"no such bomb\"";
}
