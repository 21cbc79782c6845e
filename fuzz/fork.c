/* Preloaded into a tool, makes it start once and run many times. After loading, the tool waits; for
 * each byte on standard input it forks a child that continues as the tool itself would, and replies
 * with the child's status. Starting a tool takes several times as long as unpacking a small
 * archive. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void become(int fd, const char *path, int flags)
{
    int opened = open(path, flags, 0600);
    if (opened < 0 || dup2(opened, fd) < 0)
        _exit(126);
    close(opened);
}

__attribute__((constructor)) static void serve(void)
{
    const char *errors = getenv("EDGEPUSH_FUZZ_ERRORS");
    char request;
    int status;
    if (!errors)
        return;
    while (read(0, &request, 1) == 1) {
        pid_t child = fork();
        if (child == 0) {
            become(0, "/dev/null", O_RDONLY);
            become(1, "/dev/null", O_WRONLY);
            become(2, errors, O_WRONLY | O_CREAT | O_TRUNC);
            /* Programs that the tool starts must run normally. */
            unsetenv("LD_PRELOAD");
            unsetenv("EDGEPUSH_FUZZ_ERRORS");
            return;
        }
        if (child < 0 || waitpid(child, &status, 0) != child || write(1, &status, sizeof status) != sizeof status)
            _exit(125);
    }
    _exit(0);
}
