#include "thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <system_error>

#include "denormals.h"

namespace graphopt {
namespace {

// How often a worker looks for the next run before it sleeps: kernels follow each other closely,
// but a phone's battery and other programs want the core.
constexpr int kLooks = 2000;

int usable_cores() {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    if (sched_getaffinity(0, sizeof cores, &cores) == 0) return std::max(1, CPU_COUNT(&cores));
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
    const int wanted = threads > 0 ? threads : usable_cores();
    workers_.reserve(static_cast<size_t>(wanted));
    try {
        for (int worker = 1; worker < wanted; ++worker) {
            workers_.emplace_back([this, worker] { serve(worker); });
        }
    } catch (const std::system_error&) {
        // The system gives no more threads; fewer will do.
    }
}

ThreadPool::~ThreadPool() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        stop_ = true;
        ++run_;
    }
    begun_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

bool ThreadPool::run(int tasks, const std::function<bool(int)>& work) {
    work_ = &work;
    tasks_ = tasks;
    good_ = true;
    busy_ = static_cast<int>(workers_.size());
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        ++run_;
    }
    begun_.notify_all();
    take_part(0);
    while (busy_ > 0) std::this_thread::yield();
    return good_;
}

void ThreadPool::serve(int worker) {
    const DenormalsAreZero always;
    for (uint64_t seen = 0;;) {
        for (int look = 0; look < kLooks && run_ == seen; ++look) std::this_thread::yield();
        if (run_ == seen) {
            std::unique_lock<std::mutex> lock(mutex_);
            begun_.wait(lock, [&] { return run_ != seen; });
        }
        ++seen;
        if (stop_) return;
        take_part(worker);
        --busy_;
    }
}

void ThreadPool::take_part(int worker) {
    for (int task = worker; task < tasks_; task += threads()) {
        if (!(*work_)(task)) good_ = false;
    }
}

}  // namespace graphopt
