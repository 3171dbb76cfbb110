/* The least client of AWS's Runtime API: one event after the other goes to `handle`, which gives JSON. */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *handle(const char *event);

/* Sends a request on a connection of its own, and reads the answer to its end. */
static size_t ask(const char *method, const char *path, const char *body, char *answer, size_t size) {
    static char request[1 << 16];
    const char *api = getenv("AWS_LAMBDA_RUNTIME_API");
    char host[64];
    snprintf(host, sizeof host, "%s", api);
    char *colon = strchr(host, ':');
    *colon = 0;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(colon + 1))};
    inet_pton(AF_INET, host, &to.sin_addr);
    int connection = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(connection, (struct sockaddr *)&to, sizeof to)) exit(3);
    int length = snprintf(request, sizeof request,
                          "%s /2018-06-01/runtime/%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
                          method, path, api, strlen(body), body);
    if (write(connection, request, length) != length) exit(4);
    size_t had = 0;
    ssize_t more;
    while (had + 1 < size && (more = read(connection, answer + had, size - had - 1)) > 0) had += more;
    answer[had] = 0;
    close(connection);
    return had;
}

int main(int arguments, char **names) {
    (void)names;
    /* Started by itself, with a mark to be found by: what an attack leaves behind. */
    if (arguments > 1) for (;;) pause();
    static char event[1 << 16], answer[4096], id[64], path[128];
    for (;;) {
        ask("GET", "invocation/next", "", event, sizeof event);
        const char *found = strcasestr(event, "lambda-runtime-aws-request-id: ");
        if (!found) exit(5);
        sscanf(strchr(found, ' '), " %63[^\r]", id);
        snprintf(path, sizeof path, "invocation/%s/response", id);
        ask("POST", path, handle(strstr(event, "\r\n\r\n") + 4), answer, sizeof answer);
    }
}
