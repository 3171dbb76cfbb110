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

static const char *name_of(int error) {
    return error == ENOSPC ? "ENOSPC" : error == EMFILE ? "EMFILE" : strerror(error);
}

static int until_full(const char *path) {
    static char some[1 << 20];
    int file = open(path, O_WRONLY | O_CREAT, 0600);
    if (file < 0) return errno;
    while (write(file, some, sizeof some) > 0);
    int error = errno;
    close(file);
    return error;
}

/* Large files, many files, open files: says where each of them ended. */
static const char *files(void) {
    static int opened[1 << 16];
    int ended[4] = {until_full("/tmp/a"), until_full("/tmp/b"), 0, 0};
    unlink("/tmp/a");
    unlink("/tmp/b");
    for (int number = 0; number < 10000000 && !ended[2]; number++) {
        char path[32];
        snprintf(path, sizeof path, "/tmp/%d", number);
        int file = open(path, O_WRONLY | O_CREAT, 0600);
        if (file < 0) ended[2] = errno;
        else close(file);
    }
    int count = 0;
    while (count < 1 << 16 && (opened[count] = dup(1)) >= 0) count++;
    ended[3] = errno;
    while (count > 0) close(opened[--count]);
    static char answer[256];
    snprintf(answer, sizeof answer, "[\"%s\",\"%s\",\"%s\",\"%s\"]", name_of(ended[0]), name_of(ended[1]), name_of(ended[2]),
             name_of(ended[3]));
    return answer;
}

/* Leaves a process behind, in a session of its own. */
static const char *orphan(const char *event) {
    char mark[128] = "";
    const char *at = strstr(event, "\"mark\":\"");
    if (at) sscanf(at, "\"mark\":\"%127[^\"]", mark);
    if (fork() == 0) {
        setsid();
        if (fork() == 0) {
            execl("/proc/self/exe", "orphan", mark, (char *)0);
            _exit(1);
        }
        _exit(0);
    }
    return "[]";
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
    if (strstr(event, "\"bomb\":\"loop\"")) {
        for (;;) __asm__ volatile("");
    }
    if (strstr(event, "\"bomb\":\"files\"")) return files();
    if (strstr(event, "\"bomb\":\"orphan\"")) return orphan(event);
    if (strstr(event, "\"bomb\":\"log\"")) {
        /* More than anybody reads, as fast as can be, until somebody ends it. */
        static char lines[1 << 16];
        for (size_t at = 0; at < sizeof lines; at++) lines[at] = at % 100 == 99 ? '\n' : 'x';
        for (;;) {
            if (write(1, lines, sizeof lines) < 0) pause();
            if (write(2, lines, sizeof lines) < 0) pause();
        }
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
