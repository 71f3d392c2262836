/* Preloaded, gives a process another wall clock: by TIDEMARK_CLOCK_OFFSET_S seconds. Durations and timed waits stay as they are.
 *
 * Not libfaketime: its version 0.9.10 does not know cnd_timedwait, so that librdkafka's waits end an hour late or at once.
 * A point in time that is waited for is one of the wall clock if it lies after 2001, else one of the monotonic clock. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>

#define WALL_CLOCK_FROM_S 1000000000

static time_t seconds(void) {
    static const char *text;
    if (!text) text = getenv("TIDEMARK_CLOCK_OFFSET_S");
    return text ? atol(text) : 0;
}

static int true_time(clockid_t clock, struct timespec *at) {
    static int (*next)(clockid_t, struct timespec *);
    if (!next) next = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    return next(clock, at);
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int failed = true_time(clock, at);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += seconds();
    return failed;
}

int gettimeofday(struct timeval *at, void *zone) {
    (void)zone;
    struct timespec now;
    int failed = clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}

int timespec_get(struct timespec *at, int base) {
    return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, at) == 0 ? base : 0;
}

/* The same moment by the monotonic clock, which is not shifted. */
static struct timespec monotonic(const struct timespec *until) {
    if (until->tv_sec < WALL_CLOCK_FROM_S) return *until;
    struct timespec wall, mono;
    clock_gettime(CLOCK_REALTIME, &wall);
    true_time(CLOCK_MONOTONIC, &mono);
    struct timespec at = {until->tv_sec - wall.tv_sec + mono.tv_sec, until->tv_nsec - wall.tv_nsec + mono.tv_nsec};
    while (at.tv_nsec < 0) at.tv_nsec += 1000000000, at.tv_sec--;
    while (at.tv_nsec >= 1000000000) at.tv_nsec -= 1000000000, at.tv_sec++;
    if (at.tv_sec < 0) at.tv_sec = at.tv_nsec = 0;
    return at;
}

int pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until) {
    struct timespec at = monotonic(until);
    return pthread_cond_clockwait(cond, mutex, CLOCK_MONOTONIC, &at);
}

/* librdkafka waits by this one, which libfaketime does not know. glibc's types are those of pthread. */
int cnd_timedwait(cnd_t *cond, mtx_t *mutex, const struct timespec *until) {
    int failed = pthread_cond_timedwait((pthread_cond_t *)cond, (pthread_mutex_t *)mutex, until);
    return failed == 0 ? thrd_success : failed == ETIMEDOUT ? thrd_timedout : thrd_error;
}

int sem_timedwait(sem_t *semaphore, const struct timespec *until) {
    struct timespec at = monotonic(until);
    return sem_clockwait(semaphore, CLOCK_MONOTONIC, &at);
}

int pthread_mutex_timedlock(pthread_mutex_t *mutex, const struct timespec *until) {
    struct timespec at = monotonic(until);
    return pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, &at);
}
