/* Looks for what is not its own, by nothing but the C library: the event says where. Says what it found, could write, or
 * was answered by. */

#define _GNU_SOURCE
#include "runtime.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <netdb.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/time.h>

static char found[8192], word[64];

static void say(const char *what) {
    size_t had = strlen(found);
    /* What does not fit is as bad as what does. */
    if (had + strlen(what) + 8 < sizeof found) snprintf(found + had, sizeof found - had, "%s\"%s\"", had ? "," : "", what);
}

/* What stands behind a name of the event. */
static const char *field(const char *event, const char *name) {
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\":", name);
    const char *at = strstr(event, quoted);
    return at ? at + strlen(quoted) : "";
}

/* The next text of a list, at most; null at the list's end. */
static const char *next_text(const char *at, char *text, size_t size) {
    at += strcspn(at, "\"]");
    if (*at != '"') return 0;
    size_t length = strcspn(++at, "\"");
    snprintf(text, size, "%.*s", (int)length, at);
    return at + length + 1;
}

/* Files. */

static void look(const char *path) {
    static char some[1 << 20];
    int file = open(path, O_RDONLY | O_NONBLOCK);
    if (file < 0) return;
    ssize_t size = read(file, some, sizeof some);
    close(file);
    if (size > 0 && memmem(some, size, word, strlen(word))) say(path);
}

static int visit(const char *path, const struct stat *about, int kind, struct FTW *where) {
    (void)where;
    /* What the system is made of. */
    const char *skipped[] = {"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix", "/proc"};
    for (size_t at = 0; at < sizeof skipped / sizeof *skipped; at++) {
        if (!strcmp(path, skipped[at])) return FTW_SKIP_SUBTREE;
    }
    if (kind == FTW_F && S_ISREG(about->st_mode)) look(path);
    return FTW_CONTINUE;
}

static void walk(const char *top) { nftw(top, visit, 32, FTW_PHYS | FTW_ACTIONRETVAL); }

static void look_at_processes(void) {
    DIR *all = opendir("/proc");
    if (!all) return;
    struct dirent *entry;
    while ((entry = readdir(all))) {
        int number = atoi(entry->d_name);
        if (number <= 0) continue;
        const char *files[] = {"environ", "cmdline", "mountinfo", "maps"};
        char path[64];
        for (int at = 0; at < 4; at++) {
            snprintf(path, sizeof path, "/proc/%d/%s", number, files[at]);
            look(path);
        }
        if (number == getpid()) continue;
        snprintf(path, sizeof path, "/proc/%d/root/", number);
        walk(path);
        snprintf(path, sizeof path, "/proc/%d/cwd/", number);
        walk(path);
    }
    closedir(all);
}

static void look_at_kernel(const char *path) {
    DIR *folder = opendir(path);
    if (folder) {
        struct dirent *entry;
        while ((entry = readdir(folder))) {
            if (entry->d_name[0] != '.') say(path);
        }
        closedir(folder);
        return;
    }
    char one;
    int file = open(path, O_RDONLY | O_NONBLOCK);
    if (file < 0) return;
    if (read(file, &one, 1) == 1) say(path);
    close(file);
}

static void try_to_write(const char *path) {
    char target[256], said[300];
    struct stat about;
    int is_folder = stat(path, &about) == 0 && S_ISDIR(about.st_mode);
    snprintf(target, sizeof target, "%s%s", path, is_folder ? "/mine" : "");
    int file = open(target, O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK, 0600);
    if (file < 0) return;
    close(file);
    snprintf(said, sizeof said, "can write %s", target);
    say(said);
}

static void snoop(const char *event) {
    char path[256];
    walk("/");
    look_at_processes();
    const char *at = field(event, "paths");
    while ((at = next_text(at, path, sizeof path))) {
        if (access(path, F_OK) == 0) say(path);
        look(path);
    }
    at = field(event, "processes");
    for (at += strspn(at, "["); atoi(at) > 0; at += strspn(at, ",")) {
        /* Its own have small numbers. */
        int number = atoi(at);
        snprintf(path, sizeof path, "process %d", number);
        if (number > 64 && (kill(number, 0) == 0 || errno == EPERM)) say(path);
        at += strspn(at, "0123456789");
    }
    const char *kernel[] = {"/proc/kcore", "/proc/kmsg", "/dev/mem", "/dev/kmsg", "/dev/vda", "/dev/sda", "/etc/shadow",
                            "/sys/kernel", "/sys/fs/cgroup"};
    for (size_t each = 0; each < sizeof kernel / sizeof *kernel; each++) look_at_kernel(kernel[each]);
    const char *writable[] = {"/", "/var", "/var/task", "/var/runtime", "/opt", "/etc", "/dev", "/usr", "/lib", "/srv", "/sys",
                              "/var/task/bootstrap", "/srv/looks", "/etc/passwd", "/proc/sys/kernel/hostname",
                              "/proc/sysrq-trigger", "/proc/1/oom_score_adj", "/dev/sda", "/dev/vda", "/dev/mem", "/dev/kmsg"};
    for (size_t each = 0; each < sizeof writable / sizeof *writable; each++) try_to_write(writable[each]);
}

/* The network. */

/* A connection, within a moment; whatever is asked on it has as long. */
static int connected(const char *host, const char *port, int milliseconds) {
    struct addrinfo wanted = {.ai_socktype = SOCK_STREAM}, *all;
    if (getaddrinfo(host, port, &wanted, &all)) return -1;
    int connection = -1;
    for (struct addrinfo *one = all; one && connection < 0; one = one->ai_next) {
        connection = socket(one->ai_family, SOCK_STREAM, 0);
        if (connection < 0) continue;
        struct timeval time = {milliseconds / 1000, milliseconds % 1000 * 1000};
        setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time);
        setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
        if (connect(connection, one->ai_addr, one->ai_addrlen) == 0) break;
        close(connection);
        connection = -1;
    }
    freeaddrinfo(all);
    return connection;
}

/* The status of the answer to a request; 0: none. */
static int asked(const char *host, const char *port, const char *request, int milliseconds, char *answer, size_t size) {
    answer[0] = 0;
    int connection = connected(host, port, milliseconds);
    if (connection < 0) return 0;
    size_t had = 0, length = strlen(request);
    if (send(connection, request, length, MSG_NOSIGNAL) == (ssize_t)length) {
        ssize_t more;
        while (had + 1 < size && (more = read(connection, answer + had, size - had - 1)) > 0) {
            had += more;
            answer[had] = 0;
            /* A tunnel stays open. */
            if (!strncmp(request, "CONNECT", 7) && strstr(answer, "\r\n\r\n")) break;
        }
        answer[had] = 0;
    }
    close(connection);
    int status = 0;
    sscanf(answer, "HTTP/%*s %d", &status);
    return status;
}

static void network(const char *event) {
    static char answer[4096];
    char host[128], port[16], request[512], said[256];
    const char *at = field(event, "targets");
    const char *proxy = getenv("HTTP_PROXY");
    char way_out[64] = "127.0.0.1:9002";
    if (proxy && !strncmp(proxy, "http://", 7)) snprintf(way_out, sizeof way_out, "%s", proxy + 7);
    char *colon = strchr(way_out, ':');
    if (!colon) return;
    *colon = 0;
    while ((at = next_text(at, host, sizeof host))) {
        at += strspn(at, ",");
        snprintf(port, sizeof port, "%d", atoi(at));
        at += strcspn(at, "]") + 1;
        int connection = connected(host, port, 200);
        if (connection >= 0) {
            close(connection);
            snprintf(said, sizeof said, "%s %s", host, port);
            say(said);
        }
        const char *shape = strchr(host, ':') ? "[%s]:%s" : "%s:%s";
        char shown[160];
        snprintf(shown, sizeof shown, shape, host, port);
        for (int tunnel = 0; tunnel < 2; tunnel++) {
            const char *how = tunnel ? "CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\n" : "GET http://%s/ HTTP/1.1\r\nHost: x\r\n\r\n";
            snprintf(request, sizeof request, how, shown);
            int status = asked(way_out, colon + 1, request, 5000, answer, sizeof answer);
            if (status && status != 400 && status != 403 && status != 502 && status != 504) {
                snprintf(said, sizeof said, "%s by the proxy: %d", shown, status);
                say(said);
            }
        }
    }
}

/* The Runtime API. */

static void try_at(const char *host, const char *port, const char *method, const char *path, const char *header, const char *body) {
    static char answer[1 << 16];
    char request[1024], said[512];
    snprintf(request, sizeof request, "%s %s HTTP/1.1\r\nHost: x\r\n%sConnection: close\r\nContent-Length: %zu\r\n\r\n%s", method,
             path, header, strlen(body), body);
    int status = asked(host, port, request, 500, answer, sizeof answer);
    if ((status >= 200 && status < 300) || strstr(answer, word)) {
        snprintf(said, sizeof said, "%s:%s %s: %d", host, port, path, status);
        say(said);
    }
}

static void spoof_at(const char *event, const char *host, const char *port) {
    char other[64], path[256];
    if (!next_text(field(event, "other_id"), other, sizeof other)) return;
    const char *ids[] = {"%s", "../%s", "%s%%00", "*", ""};
    for (int at = 0; at < 5; at++) {
        char id[80];
        snprintf(id, sizeof id, ids[at], other);
        snprintf(path, sizeof path, "/2018-06-01/runtime/invocation/%s/response", id);
        try_at(host, port, "POST", path, "", "\"spoofed\"");
        snprintf(path, sizeof path, "/2018-06-01/runtime/invocation/%s/error", id);
        try_at(host, port, "POST", path, "", "\"spoofed\"");
    }
    try_at(host, port, "GET", "/2020-01-01/extension/event/next",
           "Lambda-Extension-Identifier: 00000000-0000-4000-8000-000000000000\r\n", "");
    try_at(host, port, "GET", "/2015-03-31/functions", "", "");
    try_at(host, port, "POST", "/2015-03-31/functions/other/invocations", "", "{}");
}

static void spoof(const char *event) {
    char host[64];
    snprintf(host, sizeof host, "%s", getenv("AWS_LAMBDA_RUNTIME_API"));
    char *colon = strchr(host, ':');
    if (!colon) return;
    *colon = 0;
    spoof_at(event, host, colon + 1);
    const char *at = field(event, "ports");
    for (at += strspn(at, "["); atoi(at) > 0; at += strspn(at, ",")) {
        char port[16];
        snprintf(port, sizeof port, "%d", atoi(at));
        spoof_at(event, "127.0.0.1", port);
        at += strspn(at, "0123456789");
    }
}

/* Asks the server for what it refuses, all the time, from all sides. */
static void flood(void) {
    char host[64], answer[4096];
    snprintf(host, sizeof host, "%s", getenv("AWS_LAMBDA_RUNTIME_API"));
    char *colon = strchr(host, ':');
    if (!colon) return;
    *colon = 0;
    for (int number = 0; number < 4; number++) fork();
    for (;;) {
        asked(host, colon + 1, "GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 500, answer, sizeof answer);
        asked("127.0.0.1", "9002", "GET http://127.0.0.1/ HTTP/1.1\r\nHost: x\r\n\r\n", 500, answer, sizeof answer);
    }
}

static const char *handle(const char *event) {
    found[0] = 0;
    next_text(field(event, "word"), word, sizeof word);
    if (strstr(event, "\"bomb\":\"snoop\"")) snoop(event);
    else if (strstr(event, "\"bomb\":\"network\"")) network(event);
    else if (strstr(event, "\"bomb\":\"spoof\"")) spoof(event);
    else if (strstr(event, "\"bomb\":\"flood\"")) flood();
    else say("no such place to look at");
    static char answer[sizeof found + 2];
    snprintf(answer, sizeof answer, "[%s]", found);
    return answer;
}
