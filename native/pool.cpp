// SPDX-License-Identifier: Apache-2.0
#include "pool.hpp"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace qdp {
namespace {

constexpr int kMostThreads = 1024;
// How long a thread looks for work, or for the end of it, before it sleeps: waking one up takes tens
// of microseconds, or a millisecond on a virtual machine, as long as a small batch itself.
constexpr std::chrono::microseconds kSpin(200);

// What a thread asleep must save to be worth waking, and one that still looks for work.
constexpr double kWorthWaking = 400e3, kWorthCalling = 20e3;
std::atomic<std::chrono::steady_clock::time_point> last_run{};

constexpr std::chrono::milliseconds kInterruptInterval(100);
std::atomic<void (*)()> interrupt_check{nullptr};
std::atomic<std::chrono::steady_clock::time_point> last_interrupt_check{};
// What a signal's handler runs must not wait for the run that it interrupts.
thread_local bool inside_check = false;

void check_for_interrupt() {
  void (*check)() = interrupt_check;
  const auto now = std::chrono::steady_clock::now();
  if (!check || inside_check || now - last_interrupt_check.load() < kInterruptInterval) return;
  last_interrupt_check = now;
  struct Inside {
    Inside() { inside_check = true; }
    ~Inside() { inside_check = false; }
  } inside;
  check();
}

// Whether `done` came true within kSpin.
template <class F>
bool spin_until(F done) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (done()) return true;
#ifdef QDP_X86
      __builtin_ia32_pause();
#endif
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

int initial_thread_count() {
  if (const char* text = std::getenv("QDP_NUM_THREADS")) {
    char* end = nullptr;
    const long n = std::strtol(text, &end, 10);
    if (end == text || *end || n < 1 || n > kMostThreads)
      throw std::invalid_argument("QDP_NUM_THREADS: expected a number from 1 to " +
                                  std::to_string(kMostThreads) + ", got '" + text + "'");
    return int(n);
  }
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    const int n = CPU_COUNT(&set);
    if (n >= 1) return n;
  }
  const unsigned n = std::thread::hardware_concurrency();
  return n ? int(n) : 1;
}

struct Pool {
  std::mutex mutex;
  std::condition_variable wake, finished;
  std::vector<std::thread> threads;
  const std::function<void(int, int)>* task = nullptr;
  int n_parts = 0, n_active = 0;
  std::atomic<uint64_t> generation{0};
  std::atomic<bool> stop{false};
  std::atomic<int> running{0};
  std::atomic<int> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;

  void work(const std::function<void(int, int)>& run, int parts, int worker) {
    while (!failed.load(std::memory_order_relaxed)) {
      const int part = next.fetch_add(1);
      if (part >= parts) return;
      try {
        if (worker == 0) check_for_interrupt();
        run(part, worker);
      } catch (...) {
        std::lock_guard<std::mutex> lock(mutex);
        if (!error) error = std::current_exception();
        failed = true;
      }
    }
  }

  void loop(int worker, uint64_t seen) {
    for (;;) {
      const std::function<void(int, int)>* run;
      int parts;
      spin_until([&] { return stop || generation != seen; });
      {
        std::unique_lock<std::mutex> lock(mutex);
        wake.wait(lock, [&] { return stop || generation != seen; });
        if (stop) return;
        seen = generation;
        if (!task || worker > n_active) continue;
        run = task;
        parts = n_parts;
      }
      work(*run, parts, worker);
      std::lock_guard<std::mutex> lock(mutex);
      if (--running == 0) finished.notify_all();
    }
  }

  void run(int parts, int workers, const std::function<void(int, int)>& function) {
    {
      std::lock_guard<std::mutex> lock(mutex);
      while (int(threads.size()) < workers - 1) {
        const int worker = int(threads.size()) + 1;
        const uint64_t seen = generation;
        threads.emplace_back([this, worker, seen] { loop(worker, seen); });
      }
      task = &function;
      n_parts = parts;
      n_active = workers - 1;
      running = workers - 1;
      next = 0;
      failed = false;
      error = nullptr;
      ++generation;
    }
    wake.notify_all();
    work(function, parts, 0);
    spin_until([&] { return running == 0; });
    std::unique_lock<std::mutex> lock(mutex);
    finished.wait(lock, [&] { return running == 0; });
    task = nullptr;
    last_run = std::chrono::steady_clock::now();
    if (error) std::rethrow_exception(error);
  }

  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      stop = true;
    }
    wake.notify_all();
    for (std::thread& thread : threads) thread.join();
  }
};

std::mutex call_mutex;  // one run at a time: callers from several Python threads queue up
std::unique_ptr<Pool> pool;
std::atomic<int> n_threads{0};

// After fork the child has no threads: it forgets the parent's pool and starts its own when needed.
void forget_pool() {
  (void)pool.release();
  new (&call_mutex) std::mutex();
}

}  // namespace

int thread_count() {
  if (n_threads == 0) n_threads = initial_thread_count();
  return n_threads;
}

void set_thread_count(int n) { n_threads = n; }

int threads_for(double nanoseconds) {
  const bool awake = std::chrono::steady_clock::now() - last_run.load() < kSpin / 2;
  return nanoseconds < (awake ? kWorthCalling : kWorthWaking) ? 1 : thread_count();
}

void set_interrupt_check(void (*check)()) { interrupt_check = check; }

void run_parts(int n_parts, int n_threads_wanted, const std::function<void(int, int)>& task) {
  const int workers = n_parts < n_threads_wanted ? n_parts : n_threads_wanted;
  if (workers <= 1 || inside_check) {
    for (int part = 0; part < n_parts; ++part) {
      check_for_interrupt();
      task(part, 0);
    }
    return;
  }
  static std::once_flag once;
  std::call_once(once, [] { pthread_atfork(nullptr, nullptr, forget_pool); });
  std::lock_guard<std::mutex> lock(call_mutex);
  if (!pool) pool = std::make_unique<Pool>();
  pool->run(n_parts, workers, task);
}

}  // namespace qdp
