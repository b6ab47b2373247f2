// SPDX-License-Identifier: Apache-2.0
// A persistent pool of threads: one `run` at a time, static parts, so that results do not depend on
// timing. Not a task system; a part must not call `run`.
#pragma once
#include <functional>

namespace qdp {

// Number of threads used: QDP_NUM_THREADS if set (std::invalid_argument unless it is a number from 1
// to 1024), else the processors this process may use.
int thread_count();
void set_thread_count(int n);

// The threads for work that takes one of them about so many nanoseconds: all, or 1 where waking the
// others would take longer than they save. Those that have just worked are still awake.
int threads_for(double nanoseconds);

// Calls task(part, worker) for part = 0 .. n_parts - 1 on the caller and up to n_threads - 1 threads
// of the pool, worker < n_threads; returns when all are done. Tasks are handed out in order; one that
// throws stops the rest and is rethrown.
void run_parts(int n_parts, int n_threads, const std::function<void(int part, int worker)>& task);

// Has `check` called on the caller's thread between parts, about ten times a second; what it throws
// stops the run as a part's exception does.
void set_interrupt_check(void (*check)());

}  // namespace qdp
