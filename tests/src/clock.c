/* A wall clock that is wrong by as many seconds as the file STORY_CLOCK_OFF says; every other clock is right. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *at)
{
    int result = (int)syscall(SYS_clock_gettime, id, at);
    const char *path = getenv("STORY_CLOCK_OFF");
    if (result != 0 || id != CLOCK_REALTIME || path == NULL)
        return result;
    char off[32] = {0};
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return result;
    if (read(file, off, sizeof off - 1) > 0)
        at->tv_sec += atoll(off);
    close(file);
    return result;
}
