/* A pool of threads that meet at barriers. They spin for a while, then sleep: a step has five
 * meetings a layer, and a sleeping thread takes longer to wake than the work between two takes. */
#define _GNU_SOURCE
#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "native.h"

enum { SPINS = 4000, SPINS_BEFORE_SLEEP = 2000 };

static pthread_mutex_t one_job_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static pid_t owner; /* after a fork the child has none of the threads */
static int workers;

static _Alignas(64) _Atomic unsigned job_number;
static struct {
    work *function;
    void *argument;
    int threads, crew; /* who works, and who waits for its end */
} job;

struct barrier {
    _Alignas(64) _Atomic int arrived;
    _Alignas(64) _Atomic unsigned meeting;
};
static struct barrier within_job, end_of_job;

static void wait_at(struct barrier *barrier, int threads)
{
    unsigned meeting = atomic_load_explicit(&barrier->meeting, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&barrier->arrived, 1, memory_order_acq_rel) + 1 == threads) {
        atomic_store_explicit(&barrier->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&barrier->meeting, meeting + 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&barrier->meeting, memory_order_acquire) == meeting;) {
        if (spins < SPINS) {
            spins++;
            _mm_pause();
        } else {
            sched_yield(); /* whoever is missing may be waiting for this processor */
        }
    }
}

void meet(int threads)
{
    if (threads > 1)
        wait_at(&within_job, threads);
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
            _mm_pause();
        }
        if (atomic_load_explicit(&job_number, memory_order_acquire) == contract.done) {
            pthread_mutex_lock(&lock);
            while (atomic_load_explicit(&job_number, memory_order_acquire) == contract.done)
                pthread_cond_wait(&wake, &lock);
            pthread_mutex_unlock(&lock);
        }
        contract.done++;
        if (contract.thread < job.threads)
            job.function(job.argument, contract.thread, job.threads);
        wait_at(&end_of_job, job.crew);
    }
    return NULL;
}

/* Have enough workers, as far as there are threads to be had; returns how many threads work. */
static int hire(int threads)
{
    if (owner != getpid()) {
        owner = getpid();
        workers = 0;
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

void run_threads(int threads, work *function, void *argument)
{
    if (threads <= 1) {
        function(argument, 0, 1);
        return;
    }
    pthread_mutex_lock(&one_job_at_a_time);
    threads = hire(threads);
    if (threads == 1) {
        function(argument, 0, 1);
    } else {
        job.function = function;
        job.argument = argument;
        job.threads = threads;
        job.crew = workers + 1;
        pthread_mutex_lock(&lock);
        atomic_fetch_add_explicit(&job_number, 1, memory_order_release);
        pthread_cond_broadcast(&wake);
        pthread_mutex_unlock(&lock);
        function(argument, 0, threads);
        wait_at(&end_of_job, job.crew);
    }
    pthread_mutex_unlock(&one_job_at_a_time);
}
