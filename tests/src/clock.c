/* A wall clock that is wrong by as many seconds as STORY_CLOCK_OFF says; every other clock is right. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *at)
{
    int result = (int)syscall(SYS_clock_gettime, id, at);
    const char *off = getenv("STORY_CLOCK_OFF");
    if (result == 0 && id == CLOCK_REALTIME && off != NULL)
        at->tv_sec += atoll(off);
    return result;
}
