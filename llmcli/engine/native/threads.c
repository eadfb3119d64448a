/* A pool of threads that go through stages of work together.
 *
 * A stage is a number of units, which threads claim one after the other; it is over when all
 * units are finished, whoever has finished them. So nobody waits for a thread that has claimed
 * nothing, be it that it has not woken yet or that something else has its processor. Threads spin
 * for a while, then sleep: a sleeping thread takes longer to wake than most stages take. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "native.h"

enum { SPINS = 4000, SPINS_BEFORE_SLEEP = 2000, UNIT_BITS = 24 };

#if defined(__x86_64__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ volatile("isb")
#else
#define PAUSE() ((void)0)
#endif

struct team {
    int number, size;
    int holds;     /* whether a claimed unit is not reported finished yet */
    uint64_t next; /* the stage that this thread is in; alone: its next unit */
};

static pthread_mutex_t one_job_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static pid_t owner; /* after a fork the child has none of the threads */
static int workers;

/* The stage that is on (its number in the upper bits) and the next of its units; and how many of
 * them are finished. Stages are counted through all jobs. */
static _Alignas(64) _Atomic uint64_t ticket;
static _Alignas(64) _Atomic int64_t finished;

static _Alignas(64) _Atomic unsigned job_number;
static _Alignas(64) _Atomic int open_for_workers, inside;
static struct {
    work *function;
    void *argument;
    int threads;
    uint64_t stage;
} job;

int team_number(const struct team *team) { return team->number; }
int team_size(const struct team *team) { return team->size; }

int64_t claim(struct team *team, int64_t units)
{
    if (units <= 0)
        return -1;
    if (team->size == 1) {
        if ((int64_t)team->next < units)
            return (int64_t)team->next++;
        team->next = 0;
        return -1;
    }
    if (team->holds) {
        team->holds = 0;
        if (atomic_fetch_add_explicit(&finished, 1, memory_order_acq_rel) + 1 == units) {
            atomic_store_explicit(&finished, 0, memory_order_relaxed);
            atomic_store_explicit(&ticket, (team->next + 1) << UNIT_BITS, memory_order_release);
        }
    }
    uint64_t seen = atomic_load_explicit(&ticket, memory_order_acquire);
    for (int spins = 0;;) {
        if (seen >> UNIT_BITS != team->next) {
            team->next++;
            return -1;
        }
        int64_t unit = (int64_t)(seen & ((1u << UNIT_BITS) - 1));
        if (unit < units) {
            if (atomic_compare_exchange_weak_explicit(&ticket, &seen, seen + 1,
                                                      memory_order_acq_rel, memory_order_acquire)) {
                team->holds = 1;
                return unit;
            }
            continue;
        }
        if (spins < SPINS) {
            spins++;
            PAUSE();
        } else {
            sched_yield(); /* whoever is missing may be waiting for this processor */
        }
        seen = atomic_load_explicit(&ticket, memory_order_acquire);
    }
}

/* What a worker is told: its number, and which jobs were over when it began. */
struct contract {
    int thread;
    unsigned done;
};

static void *serve(void *argument)
{
    struct contract contract = *(struct contract *)argument;
    free(argument);
    for (;;) {
        for (int spins = 0; spins < SPINS_BEFORE_SLEEP; spins++) {
            if (atomic_load_explicit(&job_number, memory_order_acquire) != contract.done)
                break;
            PAUSE();
        }
        if (atomic_load_explicit(&job_number, memory_order_acquire) == contract.done) {
            pthread_mutex_lock(&lock);
            while (atomic_load_explicit(&job_number, memory_order_acquire) == contract.done)
                pthread_cond_wait(&wake, &lock);
            pthread_mutex_unlock(&lock);
        }
        /* Who is inside while the door is open keeps run_team() from returning. */
        atomic_fetch_add(&inside, 1);
        if (atomic_load(&open_for_workers)) {
            contract.done = atomic_load(&job_number);
            if (contract.thread < job.threads) {
                struct team team = {.number = contract.thread, .size = job.threads,
                                    .next = job.stage};
                job.function(job.argument, &team);
            }
        } else {
            contract.done = atomic_load(&job_number);
        }
        atomic_fetch_sub(&inside, 1);
    }
    return NULL;
}

/* Have enough workers, as far as there are threads to be had; returns how many threads work. */
static int hire(int threads)
{
    if (owner != getpid()) {
        owner = getpid();
        workers = 0;
        atomic_store(&inside, 0);
    }
    while (workers < threads - 1) {
        struct contract *contract = malloc(sizeof *contract);
        if (contract == NULL)
            break;
        contract->thread = workers + 1;
        contract->done = atomic_load(&job_number);
        pthread_t made;
        if (pthread_create(&made, NULL, serve, contract)) {
            free(contract);
            break;
        }
        pthread_detach(made);
        workers++;
    }
    return threads < workers + 1 ? threads : workers + 1;
}

void run_team(int threads, work *function, void *argument)
{
    struct team alone = {.size = 1};
    if (threads <= 1) {
        function(argument, &alone);
        return;
    }
    pthread_mutex_lock(&one_job_at_a_time);
    threads = hire(threads);
    if (threads == 1) {
        function(argument, &alone);
    } else {
        struct team team = {.size = threads,
                            .next = atomic_load_explicit(&ticket, memory_order_relaxed) >> UNIT_BITS};
        job.function = function;
        job.argument = argument;
        job.threads = threads;
        job.stage = team.next;
        atomic_store(&open_for_workers, 1);
        pthread_mutex_lock(&lock);
        atomic_fetch_add(&job_number, 1);
        pthread_cond_broadcast(&wake);
        pthread_mutex_unlock(&lock);
        function(argument, &team);
        atomic_store(&open_for_workers, 0);
        for (int spins = 0; atomic_load(&inside) > 0;) {
            if (spins < SPINS) {
                spins++;
                PAUSE();
            } else {
                sched_yield();
            }
        }
    }
    pthread_mutex_unlock(&one_job_at_a_time);
}
